//! A configuration file as a flat list of settings, each with its line and column.

use super::{ConfigError, Origin, Setting};
use std::path::Path;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Reads the settings of the TOML document `text`, which came from `path`.
///
/// Errors: the first thing that is no TOML, or every value that is neither a table, a text, a whole number
/// nor a boolean.
pub(super) fn settings(path: &Path, text: &str) -> Result<Vec<Setting>, Vec<ConfigError>> {
    let at = |offset: usize| Origin::file(path, text, offset);
    let document = DeTable::parse(text).map_err(|error| {
        let offset = error.span().map_or(0, |span| span.start);
        vec![ConfigError {
            origin: at(offset),
            message: error.message().to_owned(),
        }]
    })?;
    let mut settings = Vec::new();
    let mut errors = Vec::new();
    let mut tables: Vec<(String, &DeTable<'_>)> = vec![(String::new(), document.get_ref())];
    while let Some((prefix, table)) = tables.pop() {
        for (key, value) in table {
            let name = format!("{prefix}{}", key.get_ref());
            match value.get_ref() {
                DeValue::Table(inner) => tables.push((format!("{name}."), inner)),
                _ => match scalar(value) {
                    Ok(text) => {
                        settings.push(Setting {
                            name,
                            text,
                            origin: at(key.span().start),
                        });
                    }
                    Err(message) => errors.push(ConfigError {
                        origin: at(value.span().start),
                        message: format!("`{name}`: {message}"),
                    }),
                },
            }
        }
    }
    settings.sort_by_key(|setting| setting.origin.clone());
    if errors.is_empty() {
        Ok(settings)
    } else {
        Err(errors)
    }
}

fn scalar(value: &Spanned<DeValue<'_>>) -> Result<String, String> {
    match value.get_ref() {
        DeValue::String(text) => Ok(text.to_string()),
        DeValue::Boolean(flag) => Ok(flag.to_string()),
        DeValue::Integer(integer) => i64::from_str_radix(integer.as_str(), integer.radix())
            .map(|number| number.to_string())
            .map_err(|_| format!("{} is too large", integer.as_str())),
        other => Err(format!(
            "a {} is not allowed here; write a text, a whole number or a boolean",
            other.type_str()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_come_in_the_order_of_the_file_with_their_place() {
        let text = "cores = 2\n\n[limits]\nsessions-max = 1_000\n  queue-full = \"disconnect\"\n\
                    [listener.lan]\nbind = \"[::1]:1883\"\n";
        let settings = settings(Path::new("a.toml"), text).unwrap();
        let flat: Vec<String> = settings
            .iter()
            .map(|setting| format!("{} {}={}", setting.origin, setting.name, setting.text))
            .collect();
        assert_eq!(
            flat,
            [
                "a.toml:1:1 cores=2",
                "a.toml:4:1 limits.sessions-max=1000",
                "a.toml:5:3 limits.queue-full=disconnect",
                "a.toml:7:1 listener.lan.bind=[::1]:1883",
            ]
        );
    }

    #[test]
    fn what_is_no_toml_is_named_with_its_place() {
        let errors = settings(Path::new("a.toml"), "cores = 2\npin = maybe\n").unwrap_err();
        assert_eq!(errors[0].origin.to_string(), "a.toml:2:7");
        let errors = settings(Path::new("a.toml"), "[limits]\nsessions-max = [1]\n").unwrap_err();
        assert_eq!(errors[0].origin.to_string(), "a.toml:2:16");
        assert!(
            errors[0].message.contains("limits.sessions-max"),
            "{}",
            errors[0].message
        );
    }
}
