//! Many short texts in few bytes each.
//!
//! An allocation of its own costs a text its pointer, its length and what the allocator adds and
//! rounds up: some forty bytes. Here texts of similar length stand side by side in one vector per
//! length, rounded up to eight bytes, and are named by an index. Long texts are rare and have an
//! allocation each.

use slab::Slab;

/// Where a text stands: eight bytes with whatever else its owner keeps beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TextRef {
    pub(super) index: u32,
    /// Its length in bytes.
    pub(super) bytes: u16,
}

pub(super) struct TextArena {
    /// By length: the first holds texts of up to 8 bytes, the second of up to 16, and so on.
    classes: Vec<Class>,
    long: Slab<Box<[u8]>>,
    long_bytes: usize,
}

#[derive(Default)]
struct Class {
    bytes: Vec<u8>,
    text_count: usize,
    /// Places of removed texts.
    free: Vec<u32>,
}

const STRIDE_STEP: usize = 8;
/// A longer text has an allocation of its own.
const CLASS_TEXT_BYTES_MAX: usize = 256;

impl TextArena {
    pub(super) fn new() -> Self {
        Self {
            classes: Vec::new(),
            long: Slab::new(),
            long_bytes: 0,
        }
    }

    /// Keeps a copy of `text`.
    ///
    /// Panics when it is longer than 65,535 bytes, as no topic and no level is.
    pub(super) fn insert(&mut self, text: &[u8]) -> TextRef {
        let bytes = u16::try_from(text.len()).expect("topics have at most 65,535 bytes");
        if text.len() > CLASS_TEXT_BYTES_MAX {
            self.long_bytes += text.len();
            return TextRef {
                index: index_u32(self.long.insert(text.into())),
                bytes,
            };
        }
        let (at, stride) = class(text.len());
        if self.classes.len() <= at {
            self.classes.resize_with(at + 1, Class::default);
        }
        let class = &mut self.classes[at];
        class.text_count += 1;
        if let Some(index) = class.free.pop() {
            let start = index as usize * stride;
            class.bytes[start..start + text.len()].copy_from_slice(text);
            return TextRef { index, bytes };
        }
        let start = class.bytes.len();
        class.bytes.extend_from_slice(text);
        class.bytes.resize(start + stride, 0);
        TextRef {
            index: index_u32(start / stride),
            bytes,
        }
    }

    #[inline]
    pub(super) fn get(&self, text: TextRef) -> &[u8] {
        let length = usize::from(text.bytes);
        let index = text.index as usize;
        if length > CLASS_TEXT_BYTES_MAX {
            return &self.long[index];
        }
        let (at, stride) = class(length);
        &self.classes[at].bytes[index * stride..][..length]
    }

    /// Forgets a text; its place is used again.
    pub(super) fn remove(&mut self, text: TextRef) {
        if usize::from(text.bytes) > CLASS_TEXT_BYTES_MAX {
            self.long_bytes -= self.long.remove(text.index as usize).len();
            return;
        }
        let (at, _) = class(usize::from(text.bytes));
        let class = &mut self.classes[at];
        class.text_count -= 1;
        if class.text_count == 0 {
            *class = Class::default();
        } else {
            class.free.push(text.index);
        }
    }

    /// Texts kept.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.long.len()
            + self
                .classes
                .iter()
                .map(|class| class.text_count)
                .sum::<usize>()
    }

    /// Bytes on the heap, without what the allocator adds.
    pub(super) fn heap_bytes(&self) -> usize {
        let in_classes: usize = self
            .classes
            .iter()
            .map(|class| class.bytes.capacity() + class.free.capacity() * size_of::<u32>())
            .sum();
        in_classes + self.long.capacity() * size_of::<Box<[u8]>>() + self.long_bytes
    }
}

/// The class of a text of this length, and the bytes a text takes there.
#[inline]
fn class(length: usize) -> (usize, usize) {
    let at = length.saturating_sub(1) / STRIDE_STEP;
    (at, (at + 1) * STRIDE_STEP)
}

fn index_u32(index: usize) -> u32 {
    u32::try_from(index).expect("memory ends before four thousand million texts")
}

/// A text: in place when it is short, else where it stands.
#[derive(Clone, Copy)]
pub(super) struct ShortText<const IN_PLACE_BYTES_MAX: usize> {
    /// The length of a text in place, or `ELSEWHERE`.
    bytes_or_elsewhere: u8,
    bytes: [u8; IN_PLACE_BYTES_MAX],
}

const ELSEWHERE: u8 = u8::MAX;

impl<const IN_PLACE_BYTES_MAX: usize> ShortText<IN_PLACE_BYTES_MAX> {
    pub(super) const EMPTY: Self = Self {
        bytes_or_elsewhere: 0,
        bytes: [0; IN_PLACE_BYTES_MAX],
    };

    pub(super) fn new(text: &[u8], texts: &mut TextArena) -> Self {
        let mut bytes = [0; IN_PLACE_BYTES_MAX];
        if text.len() <= IN_PLACE_BYTES_MAX {
            bytes[..text.len()].copy_from_slice(text);
            return Self {
                bytes_or_elsewhere: u8::try_from(text.len()).expect("a short text"),
                bytes,
            };
        }
        let elsewhere = texts.insert(text);
        bytes[..4].copy_from_slice(&elsewhere.index.to_ne_bytes());
        bytes[4..6].copy_from_slice(&elsewhere.bytes.to_ne_bytes());
        Self {
            bytes_or_elsewhere: ELSEWHERE,
            bytes,
        }
    }

    #[inline]
    pub(super) fn get<'a>(&'a self, texts: &'a TextArena) -> &'a [u8] {
        match self.elsewhere() {
            Some(text) => texts.get(text),
            None => &self.bytes[..usize::from(self.bytes_or_elsewhere)],
        }
    }

    pub(super) fn remove(self, texts: &mut TextArena) {
        if let Some(text) = self.elsewhere() {
            texts.remove(text);
        }
    }

    #[inline]
    fn elsewhere(&self) -> Option<TextRef> {
        if self.bytes_or_elsewhere != ELSEWHERE {
            return None;
        }
        let (index, rest) = self.bytes.split_first_chunk()?;
        let (bytes, _) = rest.split_first_chunk()?;
        Some(TextRef {
            index: u32::from_ne_bytes(*index),
            bytes: u16::from_ne_bytes(*bytes),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_every_length_are_kept_removed_and_their_places_used_again() {
        let mut arena = TextArena::new();
        let lengths = || (0..300).chain([65_535]);
        let text = |length: usize, fill: u8| vec![fill; length];
        let mut kept = Vec::new();
        for fill in [b'a', b'b', b'c'] {
            kept.extend(
                lengths().map(|length| (text(length, fill), arena.insert(&text(length, fill)))),
            );
        }
        for (text, at) in &kept {
            assert_eq!(arena.get(*at), text);
        }
        let full = arena.heap_bytes();
        for (text, at) in kept
            .iter_mut()
            .filter(|(text, _)| text.first() == Some(&b'b'))
        {
            arena.remove(*at);
            text.fill(b'd');
            *at = arena.insert(text);
        }
        for (text, at) in &kept {
            assert_eq!(arena.get(*at), text);
        }
        // What is added is the lists of free places.
        assert!(arena.heap_bytes() < full + full / 10);
        assert_eq!(arena.count(), kept.len());
        for (_, at) in kept {
            arena.remove(at);
        }
        assert_eq!((arena.count(), arena.long_bytes), (0, 0));
        assert!(
            arena
                .classes
                .iter()
                .all(|class| class.bytes.capacity() == 0)
        );
    }
}
