//! A configuration file as a flat list of settings, each with its line and column.

use super::key::Value;
use super::{ConfigError, Origin, Setting};
use std::path::Path;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Reads the settings of the TOML document `text`, which came from `path`, in the order of the file; and beside them
/// everything in it that is no TOML, or no setting.
pub(super) fn settings(path: &Path, text: &str) -> (Vec<Setting>, Vec<ConfigError>) {
    let at = |offset: usize| Origin::file(path, text, offset);
    let (document, mistakes) = DeTable::parse_recoverable(text);
    let mut errors: Vec<_> = mistakes
        .iter()
        .map(|error| ConfigError {
            origin: at(error.span().map_or(0, |span| span.start)),
            message: error.message().to_owned(),
        })
        .collect();
    if !errors.is_empty() {
        // What the parser made of the rest may be wrong.
        return (Vec::new(), errors);
    }
    let mut settings = Vec::new();
    let mut tables: Vec<(String, &DeTable<'_>)> = vec![(String::new(), document.get_ref())];
    while let Some((prefix, table)) = tables.pop() {
        for (key, value) in table {
            let name = format!("{prefix}{}", key.get_ref());
            if let DeValue::Table(inner) = value.get_ref()
                && inner.iter().next().is_some()
            {
                tables.push((format!("{name}."), inner));
                continue;
            }
            match setting(value) {
                Ok(value) => settings.push(Setting {
                    name,
                    value,
                    origin: at(key.span().start),
                }),
                Err(message) => errors.push(ConfigError {
                    origin: at(value.span().start),
                    message: format!("`{name}`: {message}"),
                }),
            }
        }
    }
    settings.sort_by_key(|setting| setting.origin.clone());
    (settings, errors)
}

/// The items of an array that does not stand in a file.
pub(super) fn array(text: &str) -> Result<Vec<String>, String> {
    let value = DeValue::parse(text.trim()).map_err(|error| error.message().to_owned())?;
    match setting(&value)? {
        Value::Many(items) => Ok(items),
        _ => Err("it is no array".into()),
    }
}

fn setting(value: &Spanned<DeValue<'_>>) -> Result<Value, String> {
    match value.get_ref() {
        DeValue::Array(items) => items
            .iter()
            .map(scalar)
            .collect::<Result<_, _>>()
            .map(Value::Many),
        DeValue::Table(_) => Ok(Value::Table),
        _ => scalar(value).map(Value::One),
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
                    [listener.lan]\nbind = \"[::1]:1883\"\nallow = [\"10.0.0.0/8\", \"::1\"]\n[listener.lan.websocket]\n";
        let (settings, errors) = settings(Path::new("a.toml"), text);
        assert_eq!(errors, []);
        let flat: Vec<String> = settings
            .iter()
            .map(|setting| format!("{} {}={:?}", setting.origin, setting.name, setting.value))
            .collect();
        assert_eq!(
            flat,
            [
                r#"a.toml:1:1 cores=One("2")"#,
                r#"a.toml:4:1 limits.sessions-max=One("1000")"#,
                r#"a.toml:5:3 limits.queue-full=One("disconnect")"#,
                r#"a.toml:7:1 listener.lan.bind=One("[::1]:1883")"#,
                r#"a.toml:8:1 listener.lan.allow=Many(["10.0.0.0/8", "::1"])"#,
                r#"a.toml:9:15 listener.lan.websocket=Table"#,
            ]
        );
    }

    #[test]
    fn what_is_no_toml_is_named_with_its_place() {
        let text = "cores = 2\npin = maybe\nlog-level = \n";
        let (settings, errors) = settings(Path::new("a.toml"), text);
        assert!(settings.is_empty());
        let origins: Vec<_> = errors
            .iter()
            .map(|error| error.origin.to_string())
            .collect();
        assert_eq!(origins, ["a.toml:2:7", "a.toml:3:13"], "each of them");

        let text = "[limits]\nsessions-max = 1.5\nconnections-max = 5\n";
        let (settings, errors) = super::settings(Path::new("a.toml"), text);
        assert_eq!(settings.len(), 1);
        assert_eq!(errors[0].origin.to_string(), "a.toml:2:16");
        assert!(
            errors[0].message.contains("limits.sessions-max"),
            "{}",
            errors[0].message
        );
    }
}
