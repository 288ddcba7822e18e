<?php
// Sends one mail, as it stands, with PHPMailer. Standard input: {settings, sender, recipient, file} as JSON.
// Exit 1 when the mail was not taken.

use PHPMailer\PHPMailer\PHPMailer;

require 'libphp-phpmailer/autoload.php';

class Sender extends PHPMailer
{
    public function sendFile(string $file): void
    {
        [$header, $body] = explode("\r\n\r\n", file_get_contents($file), 2);
        // It ends the last line itself.
        $this->smtpSend($header, preg_replace('/\r\n$/D', '', $body));
    }
}

$given = json_decode(file_get_contents('php://stdin'), true);
$sender = new Sender(true);
$sender->isSMTP();
$sender->SMTPDebug = 2;
$sender->Debugoutput = fn ($line) => print(rtrim($line) . "\n");
foreach ($given['settings'] as $name => $value) {
    $sender->$name = $value;
}
$sender->setFrom($given['sender']);
$sender->addAddress($given['recipient']);
try {
    $sender->sendFile($given['file']);
} catch (Exception $error) {
    print($error->getMessage() . "\n");
    exit(1);
}
