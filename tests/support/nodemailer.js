// Sends one mail with nodemailer. Standard input: {transport, envelope, file} as JSON. The last line is the
// server's refusal, if there was one; exit 1 when the mail was not taken.
'use strict';
const nodemailer = require('nodemailer');

const { transport, envelope, file } = JSON.parse(require('fs').readFileSync(0));
nodemailer
  .createTransport({ ...transport, logger: true, debug: true })
  .sendMail({ envelope, raw: { path: file } })
  .catch((error) => {
    console.log(String(error));
    if (error.response) console.log('refusal: ' + error.response.split('\n').pop());
    process.exitCode = 1;
  });
