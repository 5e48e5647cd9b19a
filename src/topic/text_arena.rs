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
