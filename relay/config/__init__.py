"""Configuration: `units` (durations, sizes), `models` (what may be set), `source` (file and environment
into models, with the place of every error), `checks` (what only the whole can be asked), `shipped`
(models printed as `config.toml`)."""
