//! The nodes of the trie of filters with wildcards.

use super::text_arena::{ShortText, TextArena};

/// No node, or no filter.
pub(super) const NONE: u32 = u32::MAX;

/// The node of no levels. It always exists, and it has no parent.
pub(super) const ROOT: u32 = 0;

/// How a filter with wildcards ends, relative to its node.
#[derive(Clone, Copy)]
pub(super) enum Ends {
    /// At the node.
    Here,
    /// With `#` below the node.
    Below,
    /// With the tail of the node.
    Tail,
}

/// The nodes of the trie, and a list of the free ones through their parents.
pub(super) struct Nodes {
    nodes: Vec<Node>,
    free: u32,
    /// Tails, and levels that do not fit in their node.
    pub(super) texts: TextArena,
}

pub(super) struct Node {
    pub(super) level: LevelText,
    pub(super) parent: u32,
    pub(super) below: Below,
}

/// What there is at and below a node.
pub(super) enum Below {
    Branch(Branch),
    /// One filter alone, with this left of it: neither nothing nor `#`.
    Tail {
        filter: u32,
        text: TailText,
    },
}

pub(super) struct Branch {
    /// The child for the level `+`.
    pub(super) plus: u32,
    /// The filter that ends at this node.
    pub(super) here: u32,
    /// The filter that ends with `#` below this node.
    pub(super) hash: u32,
    pub(super) literals: Literals,
}

impl Branch {
    pub(super) const BARE: Self = Self {
        plus: NONE,
        here: NONE,
        hash: NONE,
        literals: Literals::None,
    };

    /// Whether no filter ends at or below the node.
    pub(super) fn is_bare(&self) -> bool {
        let has_literals = !matches!(self.literals, Literals::None);
        self.here == NONE && self.hash == NONE && self.plus == NONE && !has_literals
    }
}

// The level that leads to a node stands in it, so checking an edge reads what the walk reads next.
const _: () = assert!(size_of::<Node>() == 40);

/// The children of a node for levels that are no wildcards.
#[derive(Clone, Copy)]
pub(super) enum Literals {
    None,
    /// Most nodes below the first levels have one, which is found without the table.
    Only(u32),
    /// So many, in the table; there were more than one at some time.
    Several(u32),
}

/// So that a level and its length have 16 bytes.
type LevelText = ShortText<15>;
/// And a tail 12, beside the filter that it is of.
type TailText = ShortText<11>;

impl Nodes {
    pub(super) fn new() -> Self {
        let mut nodes = Self {
            nodes: Vec::new(),
            free: NONE,
            texts: TextArena::new(),
        };
        let root = nodes.add(NONE, b"");
        assert_eq!(root, ROOT);
        nodes
    }

    #[inline]
    pub(super) fn at(&self, id: u32) -> &Node {
        &self.nodes[id as usize]
    }

    fn at_mut(&mut self, id: u32) -> &mut Node {
        &mut self.nodes[id as usize]
    }

    #[inline]
    pub(super) fn level<'a>(&'a self, node: &'a Node) -> &'a [u8] {
        node.level.get(&self.texts)
    }

    /// A node without a tail.
    pub(super) fn branch(&self, id: u32) -> &Branch {
        match &self.at(id).below {
            Below::Branch(branch) => branch,
            Below::Tail { .. } => unreachable!("what has a tail is looked for and unfolded"),
        }
    }

    pub(super) fn branch_mut(&mut self, id: u32) -> &mut Branch {
        match &mut self.at_mut(id).below {
            Below::Branch(branch) => branch,
            Below::Tail { .. } => unreachable!("what has a tail is looked for and unfolded"),
        }
    }

    pub(super) fn tail(&self, id: u32) -> Option<&[u8]> {
        match &self.at(id).below {
            Below::Branch(_) => None,
            Below::Tail { text, .. } => Some(text.get(&self.texts)),
        }
    }

    /// Gives a bare node a tail, of a filter that `set_filter` names.
    pub(super) fn set_tail(&mut self, id: u32, tail: &[u8]) {
        debug_assert!(self.is_bare(id));
        let text = TailText::new(tail, &mut self.texts);
        let filter = NONE;
        self.at_mut(id).below = Below::Tail { filter, text };
    }

    /// Makes a node with a tail a bare one. Returns the filter and the tail.
    pub(super) fn take_tail(&mut self, id: u32) -> (u32, Box<[u8]>) {
        let Below::Tail { filter, text } = self.at(id).below else {
            unreachable!("asked for, or said by its filter");
        };
        let tail = text.get(&self.texts).into();
        text.remove(&mut self.texts);
        self.at_mut(id).below = Below::Branch(Branch::BARE);
        (filter, tail)
    }

    pub(super) fn filter(&self, id: u32, ends: Ends) -> u32 {
        match (&self.at(id).below, ends) {
            (Below::Branch(branch), Ends::Here) => branch.here,
            (Below::Branch(branch), Ends::Below) => branch.hash,
            (Below::Tail { filter, .. }, Ends::Tail) => *filter,
            _ => unreachable!("a filter ends as its node does"),
        }
    }

    pub(super) fn set_filter(&mut self, id: u32, ends: Ends, id_of_filter: u32) {
        match (&mut self.at_mut(id).below, ends) {
            (Below::Branch(branch), Ends::Here) => branch.here = id_of_filter,
            (Below::Branch(branch), Ends::Below) => branch.hash = id_of_filter,
            (Below::Tail { filter, .. }, Ends::Tail) => *filter = id_of_filter,
            _ => unreachable!("a filter ends as its node does"),
        }
    }

    /// Whether no filter ends at or below the node.
    pub(super) fn is_bare(&self, id: u32) -> bool {
        match &self.at(id).below {
            Below::Branch(branch) => branch.is_bare(),
            Below::Tail { .. } => false,
        }
    }

    pub(super) fn add(&mut self, parent: u32, level: &[u8]) -> u32 {
        let node = Node {
            level: LevelText::new(level, &mut self.texts),
            parent,
            below: Below::Branch(Branch::BARE),
        };
        if self.free == NONE {
            let id = index_u32(self.nodes.len());
            self.nodes.push(node);
            id
        } else {
            let id = self.free;
            self.free = self.at(id).parent;
            *self.at_mut(id) = node;
            id
        }
    }

    pub(super) fn remove(&mut self, id: u32) {
        assert_ne!(id, ROOT);
        let level = self.at(id).level;
        level.remove(&mut self.texts);
        let free = self.free;
        let node = self.at_mut(id);
        node.level = LevelText::EMPTY;
        node.parent = free;
        self.free = id;
    }

    pub(super) fn path(&self, node: u32, ends: Ends, out: &mut String) {
        let mut nodes = Vec::new();
        let mut at = node;
        while at != ROOT {
            nodes.push(at);
            at = self.at(at).parent;
        }
        let start = out.len();
        let mut first = true;
        for &id in nodes.iter().rev() {
            if !first {
                out.push('/');
            }
            first = false;
            let level = std::str::from_utf8(self.level(self.at(id)));
            out.push_str(level.expect("a level is cut out of a str at separators"));
        }
        let end = match ends {
            Ends::Here => None,
            Ends::Below => Some(&b"#"[..]),
            Ends::Tail => self.tail(node),
        };
        if let Some(end) = end {
            if !first {
                out.push('/');
            }
            out.push_str(std::str::from_utf8(end).expect("a tail begins behind a separator"));
        }
        assert!(out.len() > start);
    }

    /// Nodes, those that are free included.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.nodes.len()
    }

    pub(super) fn heap_bytes(&self) -> usize {
        self.nodes.capacity() * size_of::<Node>() + self.texts.heap_bytes()
    }
}

pub(super) fn index_u32(index: usize) -> u32 {
    let index = u32::try_from(index).expect("memory ends before four thousand million entries");
    assert_ne!(index, NONE);
    index
}
