//! The lists that the store keeps in columns: who receives a message, who has acknowledged which.
//!
//! Input: the text of a column. What is no UTF-8 is replaced.
//!
//! What must hold: a text is read whole or called damaged; and receivers that were read are written as a text that reads the same.

use ringmq::shard::record::Receiver;
use ringmq::store::codec::{each_list, each_receiver, receivers_text};

/// Runs one input.
pub fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut lists = 0;
    let is_whole = each_list(&text, |_| {
        lists += 1;
        true
    });
    assert!(!is_whole || lists == text.matches("],[").count() + usize::from(text != "[]"));
    let read = |text: &str| {
        let mut receivers: Vec<Receiver> = Vec::new();
        each_receiver(text, |receiver| receivers.push(receiver)).then_some(receivers)
    };
    if let Some(receivers) = read(&text) {
        assert!(is_whole && receivers.len() == lists);
        let written = receivers_text(&receivers);
        assert_eq!(read(&written).expect("it was written just now"), receivers);
    }
}
