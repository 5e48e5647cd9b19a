//! Packets that many connections have outbound at the same time, in memory once.
//!
//! A message to a thousand subscribers is the same bytes for nearly all of them. Copied into the outbound bytes of each, a turn's
//! messages would push everything else out of the processor's cache, twice: when they are copied, and when the kernel
//! reads them. So the packet is appended to a *page*, and each connection holds the *run* of bytes of the page that is its own. As long as
//! a connection gets all that is appended, its run just grows.
//!
//! Who holds a run keeps its whole page, [`PAGE_BYTES`] at most, so a client that reads slowly costs that much more than
//! it has waiting.

use slab::Slab;

/// A page takes no packet that would make it larger.
const PAGE_BYTES: usize = 16 << 10;
/// A packet larger than this is copied to each.
const PACKET_BYTES_MAX: usize = PAGE_BYTES / 4;

/// Bytes of a page, for one holder. It has to be given back with [`Pages::release`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    page: u32,
    from: u32,
    to: u32,
}

impl Run {
    pub(super) fn len(self) -> usize {
        (self.to - self.from) as usize
    }

    /// Whether it is the first of its page.
    pub(super) fn begins_page(self) -> bool {
        self.from == 0
    }

    /// Takes in what stands right behind it; false when `next` does not.
    pub(super) fn extend(&mut self, next: Self) -> bool {
        let is_next = self.page == next.page && self.to == next.from;
        if is_next {
            self.to = next.to;
        }
        is_next
    }
}

#[derive(Debug, Default)]
struct Page {
    bytes: Vec<u8>,
    holders: u32,
}

/// The pages of a shard.
#[derive(Debug, Default)]
pub(super) struct Pages {
    pages: Slab<Page>,
    /// Where the next packet goes, by kind of packet: connections of one kind get the same ones.
    open: [Option<u32>; 2],
}

impl Pages {
    /// Appends a packet and returns it with its first holder; nothing if it is too large.
    pub(super) fn append(&mut self, kind: usize, packet: &[u8]) -> Option<Run> {
        if packet.len() > PACKET_BYTES_MAX {
            return None;
        }
        let is_full =
            |page: &u32| self.pages[*page as usize].bytes.len() + packet.len() > PAGE_BYTES;
        if let Some(full) = self.open[kind].take_if(|page| is_full(page))
            && self.pages[full as usize].holders == 0
        {
            self.pages.remove(full as usize);
        }
        let page =
            *self.open[kind].get_or_insert_with(|| self.pages.insert(Page::default()) as u32);
        let Page { bytes, holders } = &mut self.pages[page as usize];
        let from = bytes.len() as u32;
        bytes.extend_from_slice(packet);
        *holders += 1;
        Some(Run {
            page,
            from,
            to: bytes.len() as u32,
        })
    }

    /// One more holder of the run's page.
    pub(super) fn hold(&mut self, run: Run) -> Run {
        self.pages[run.page as usize].holders += 1;
        run
    }

    /// One holder less. What nobody holds is gone.
    pub(super) fn release(&mut self, run: Run) {
        let page = &mut self.pages[run.page as usize];
        page.holders -= 1;
        if page.holders > 0 {
            return;
        }
        if self.open.contains(&Some(run.page)) {
            page.bytes.clear();
        } else {
            self.pages.remove(run.page as usize);
        }
    }

    pub(super) fn bytes(&self, run: Run) -> &[u8] {
        &self.pages[run.page as usize].bytes[run.from as usize..run.to as usize]
    }

    /// Runs that are held.
    pub(super) fn holders(&self) -> usize {
        self.pages
            .iter()
            .map(|(_, page)| page.holders as usize)
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_grows_only_by_what_stands_right_behind_it() {
        let mut pages = Pages::default();
        let first = pages.append(0, b"one").unwrap();
        let mut run = pages.hold(first);
        let other = pages.append(1, b"other").unwrap();
        assert!(!run.extend(other));
        let second = pages.append(0, b"two").unwrap();
        let third = pages.append(0, b"three").unwrap();
        assert!(!run.extend(third));
        assert!(run.extend(second) && run.extend(third));
        assert_eq!(pages.bytes(run), b"onetwothree");
        assert!(first.begins_page() && !second.begins_page());
    }

    #[test]
    fn a_page_begins_anew_when_nobody_holds_it_and_not_before() {
        let mut pages = Pages::default();
        let first = pages.append(0, b"one").unwrap();
        let held = pages.hold(first);
        pages.release(first);
        let second = pages.append(0, b"two").unwrap();
        assert_eq!(
            (pages.bytes(held), pages.bytes(second)),
            (&b"one"[..], &b"two"[..])
        );
        pages.release(second);
        pages.release(held);
        assert_eq!(pages.holders(), 0);
        assert!(pages.append(0, b"three").unwrap().begins_page());
    }

    #[test]
    fn full_pages_last_as_long_as_their_holders() {
        let mut pages = Pages::default();
        let packet = [7; PACKET_BYTES_MAX];
        let runs: Vec<_> = (0..9).map(|_| pages.append(0, &packet).unwrap()).collect();
        assert_eq!(pages.pages.len(), 3);
        assert!(runs.iter().all(|run| pages.bytes(*run) == packet));
        runs.iter().for_each(|run| pages.release(*run));
        assert_eq!(pages.pages.len(), 1, "only the open one is kept");
        assert_eq!(pages.append(0, &[0; PACKET_BYTES_MAX + 1]), None);
    }
}
