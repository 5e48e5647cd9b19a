//! How the values of records stand in columns.
//!
//! Lists are JSON arrays of arrays of numbers, so that the views can take them apart.

use super::batch::SessionPart;
use crate::protocol::QoS;
use crate::shard::message::{Message, MessageParts, NEVER};
use crate::shard::record::{Receiver, ReceiverFlags, StoredMessage, StoredSession};
use rusqlite::Row;
use rusqlite::types::{FromSqlError, ValueRef};
use std::fmt::Write;

/// A number of ours as SQLite keeps it.
///
/// Panics: above 2^63, which neither clocks nor counters reach.
pub(super) fn sql(number: u64) -> i64 {
    i64::try_from(number).expect("numbers of ours are below 2^63")
}

/// Receivers as `[[session,flags,subscription id...],...]`.
pub fn receivers_text(receivers: &[Receiver]) -> String {
    let mut text = String::with_capacity(2 + receivers.len() * 16);
    lists_text(&mut text, receivers, |text, receiver| {
        number(text, receiver.session.0);
        text.push(',');
        number(text, u64::from(receiver.flags.bits()));
        for id in receiver.subscription_ids.iter().flat_map(|ids| ids.iter()) {
            text.push(',');
            number(text, u64::from(*id));
        }
    });
    text
}

/// `[[message,session,part,session,part...],...]`
pub(super) fn acks_text(acks: &[(StoredMessage, Vec<SessionPart>)]) -> String {
    let mut text = String::with_capacity(2 + acks.len() * 32);
    lists_text(&mut text, acks, |text, (message, parts)| {
        number(text, message.0);
        for (session, part) in parts {
            text.push(',');
            number(text, session.0);
            text.push(',');
            number(text, u64::from(part.bits()));
        }
    });
    text
}

fn lists_text<T>(text: &mut String, items: &[T], mut list: impl FnMut(&mut String, &T)) {
    text.push('[');
    for (at, item) in items.iter().enumerate() {
        text.push_str(if at == 0 { "[" } else { ",[" });
        list(text, item);
        text.push(']');
    }
    text.push(']');
}

fn number(text: &mut String, number: u64) {
    write!(text, "{number}").expect("a String takes all that is written to it");
}

/// Takes `[[1,2],[3]]` apart and gives each inner list to `list`; false when the text is not of that form, and then
/// some lists may have been given.
pub fn each_list(text: &str, mut list: impl FnMut(&[u64]) -> bool) -> bool {
    let Some(inner) = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'))
    else {
        return false;
    };
    if inner.is_empty() {
        return true;
    }
    let Some(inner) = inner
        .strip_prefix('[')
        .and_then(|inner| inner.strip_suffix(']'))
    else {
        return false;
    };
    let mut numbers = Vec::new();
    inner.split("],[").all(|part| {
        numbers.clear();
        part.split(',').all(|digits| match digits.parse() {
            Ok(number) => {
                numbers.push(number);
                true
            }
            Err(_) => false,
        }) && list(&numbers)
    })
}

/// Each receiver of a row of `msg`; false when the text is damaged.
pub fn each_receiver(text: &str, mut receiver: impl FnMut(Receiver)) -> bool {
    each_list(text, |numbers| {
        let [session, flags, ids @ ..] = numbers else {
            return false;
        };
        let flags = u32::try_from(*flags)
            .ok()
            .and_then(ReceiverFlags::from_bits);
        let (Some(flags), Ok(ids)) = (
            flags,
            ids.iter()
                .map(|id| u32::try_from(*id))
                .collect::<Result<Vec<_>, _>>(),
        ) else {
            return false;
        };
        receiver(Receiver {
            session: StoredSession(*session),
            flags,
            subscription_ids: (!ids.is_empty()).then(|| Box::new(ids)),
        });
        true
    })
}

/// A monotonic expiry as the wall clock's, or NULL.
pub(super) fn expiry_to_wall(expires_at_ms: u64, wall_minus_mono_ms: u64) -> Option<i64> {
    (expires_at_ms != NEVER).then(|| {
        i64::try_from(expires_at_ms.saturating_add(wall_minus_mono_ms)).unwrap_or(i64::MAX)
    })
}

/// The reverse; what has expired before the process started becomes 0.
pub(super) fn expiry_to_mono(wall_ms: Option<i64>, wall_minus_mono_ms: u64) -> u64 {
    match wall_ms {
        None => NEVER,
        Some(wall_ms) => u64::try_from(wall_ms)
            .unwrap_or(0)
            .saturating_sub(wall_minus_mono_ms),
    }
}

/// The columns of a message from `at` on: `number, expires_at, qos, retain, stamp, topic, properties, payload`.
pub(super) fn message(
    row: &Row<'_>,
    at: usize,
    wall_minus_mono_ms: u64,
) -> rusqlite::Result<Message> {
    let text = |at: usize| -> rusqlite::Result<&str> { Ok(row.get_ref(at)?.as_str()?) };
    Ok(Message::new(&MessageParts {
        topic: text(at + 5)?,
        properties: &[blob(row, at + 6)?],
        payload: blob(row, at + 7)?,
        qos: qos(row, at + 2)?,
        retain: row.get(at + 3)?,
        expires_at_ms: expiry_to_mono(row.get(at + 1)?, wall_minus_mono_ms),
        stamp: unsigned(row, at + 4)?.unwrap_or(0),
        number: unsigned(row, at)?.unwrap_or(0),
    }))
}

/// Bytes; NULL is none.
pub(super) fn blob<'a>(row: &'a Row<'_>, at: usize) -> rusqlite::Result<&'a [u8]> {
    match row.get_ref(at)? {
        ValueRef::Null => Ok(&[]),
        value => Ok(value.as_blob()?),
    }
}

/// A number that is not negative, or NULL.
pub(super) fn unsigned(row: &Row<'_>, at: usize) -> rusqlite::Result<Option<u64>> {
    match row.get_ref(at)? {
        ValueRef::Null => Ok(None),
        value => {
            let value = value.as_i64()?;
            Ok(Some(
                u64::try_from(value).map_err(|_| FromSqlError::OutOfRange(value))?,
            ))
        }
    }
}

/// A number that must be there.
pub(super) fn number_at(row: &Row<'_>, at: usize) -> rusqlite::Result<u64> {
    unsigned(row, at)?.ok_or_else(|| FromSqlError::InvalidType.into())
}

pub(super) fn qos(row: &Row<'_>, at: usize) -> rusqlite::Result<QoS> {
    let bits = row.get_ref(at)?.as_i64()?;
    let qos = u8::try_from(bits).ok().and_then(QoS::from_bits);
    Ok(qos.ok_or(FromSqlError::OutOfRange(bits))?)
}

/// Empty bytes are NULL, which costs nothing.
pub(super) fn optional(bytes: &[u8]) -> Option<&[u8]> {
    (!bytes.is_empty()).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::record::Part;
    use proptest::prelude::*;

    fn receivers_of(text: &str) -> Option<Vec<Receiver>> {
        let mut receivers = Vec::new();
        each_receiver(text, |receiver| receivers.push(receiver)).then_some(receivers)
    }

    proptest! {
        #[test]
        fn receivers_come_back(list in prop::collection::vec(
            (0..i64::MAX as u64, any::<u32>().prop_filter("a QoS", |bits| bits & 3 != 3), prop::collection::vec(any::<u32>(), 0..3)), 0..20)
        ) {
            let receivers: Vec<_> = list.into_iter().map(|(session, flags, ids)| Receiver {
                session: StoredSession(session),
                flags: ReceiverFlags::from_bits(flags).unwrap(),
                subscription_ids: (!ids.is_empty()).then(|| Box::new(ids)),
            }).collect();
            prop_assert_eq!(receivers_of(&receivers_text(&receivers)), Some(receivers));
        }

        #[test]
        fn any_text_is_taken_or_refused(text in "[\\[\\],0-9]{0,30}") {
            let _ = receivers_of(&text);
        }
    }

    #[test]
    fn damaged_lists_are_refused() {
        for text in [
            "",
            "[",
            "[]]",
            "[1]",
            "[[]]",
            "[[1]]",
            "[[1,3]]",
            "[[1,4294967296]]",
            "[[1,2],]",
            "[[1,2] ,[3,4]]",
            "[[-1,2]]",
            "[[1,2,4294967296]]",
        ] {
            assert_eq!(receivers_of(text), None, "{text}");
        }
        assert_eq!(receivers_of("[]"), Some(vec![]));
    }

    #[test]
    fn acks_name_the_message_first() {
        let acks = [
            (
                StoredMessage(5),
                vec![
                    (StoredSession(1), Part::OWN),
                    (StoredSession(2), Part::from_bits(7).unwrap()),
                ],
            ),
            (StoredMessage(9), vec![(StoredSession(3), Part::OWN)]),
        ];
        assert_eq!(acks_text(&acks), "[[5,1,0,2,7],[9,3,0]]");
    }

    #[test]
    fn expiry_survives_a_restart_with_another_clock() {
        let wall = expiry_to_wall(5_000, 1_000_000);
        assert_eq!(wall, Some(1_005_000));
        assert_eq!(expiry_to_mono(wall, 1_003_000), 2_000);
        assert_eq!(expiry_to_mono(wall, 1_006_000), 0);
        assert_eq!(expiry_to_wall(NEVER, 1_000_000), None);
        assert_eq!(expiry_to_mono(None, 1_000_000), NEVER);
    }
}
