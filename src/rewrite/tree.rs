//! A document as a tree of places: what is where, and which node an alias
//! means. Aliases are never expanded, so that a document is as large in memory
//! as it is on disk, whatever it refers to.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use granit_parser::{Event, Options, Parser, ScalarStyle, StructureStyle};

use super::Remark;

/// Longest document, in bytes.
const MAX_BYTES: usize = 16 << 20;
/// Most nodes of a document; the parser bounds how deep they are nested.
const MAX_NODES: usize = 1 << 20;

/// Most mappings that one is looked for in: itself, and those merged into it.
const MAX_MERGED: usize = 64;

/// A node, by its place in the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Id(usize);

#[derive(Debug)]
pub(super) struct Node {
    /// Its bytes: quotes are in it, anchor and tag are not.
    pub(super) span: Range<usize>,
    /// An anchor stands before it.
    pub(super) anchored: bool,
    pub(super) content: Content,
}

#[derive(Debug)]
pub(super) enum Content {
    Scalar { value: String, style: ScalarStyle },
    Sequence(Vec<Id>),
    Mapping { pairs: Vec<(Id, Id)>, flow: bool },
    Alias(Id),
}

/// A pair of a mapping, perhaps merged into another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    /// The mapping in which it is written.
    pub(super) mapping: Id,
    pub(super) key: Id,
    pub(super) value: Id,
}

/// All documents of a text.
#[derive(Debug, Default)]
pub(super) struct Tree {
    nodes: Vec<Node>,
    /// The root of each document.
    pub(super) documents: Vec<Id>,
}

impl Tree {
    /// Parses `text`; the error is in its first wrong place.
    pub(super) fn parse(text: &str) -> Result<Tree, Remark> {
        if text.len() > MAX_BYTES {
            let message = format!("longer than {} MiB", MAX_BYTES >> 20);
            return Err(Remark::at(text, 0, message, Some("split it".to_owned())));
        }
        let mut options = Options::default();
        options.set_emit_comments(false);
        let mut tree = Tree::default();
        let mut anchors: HashMap<usize, Id> = HashMap::new();
        // Collections that are not closed yet, with the children so far.
        let mut open: Vec<(Id, Vec<Id>)> = Vec::new();
        for event in Parser::new_from_str_with_options(text, options) {
            let (event, span) = match event {
                Ok(event) => event,
                Err(error) => {
                    let at = error.marker().byte_offset().unwrap_or(text.len());
                    let message = format!("neither YAML nor JSON: {}", error.info());
                    let template = "a Helm template is no YAML: rewrite its values, or what `helm template` prints";
                    let fix = text.contains("{{").then(|| template.to_owned());
                    return Err(Remark::at(text, at, message, fix));
                }
            };
            let span = span.byte_range().unwrap_or(text.len()..text.len());
            if tree.nodes.len() >= MAX_NODES {
                return Err(Remark::at(text, span.start, "more values than fit", Some("split it".to_owned())));
            }
            let (content, anchor, opens) = match event {
                Event::Scalar(value, style, anchor, _) => {
                    (Content::Scalar { value: value.into_owned(), style }, anchor, false)
                }
                Event::Alias(anchor) => match anchors.get(&anchor) {
                    Some(target) => (Content::Alias(*target), 0, false),
                    None => return Err(Remark::at(text, span.start, "this alias means nothing", None)),
                },
                Event::SequenceStart(_, anchor, _) => (Content::Sequence(Vec::new()), anchor, true),
                Event::MappingStart(style, anchor, _) => {
                    let flow = style == StructureStyle::Flow;
                    (Content::Mapping { pairs: Vec::new(), flow }, anchor, true)
                }
                Event::SequenceEnd | Event::MappingEnd => {
                    if let Some((id, children)) = open.pop() {
                        tree.close(id, children, span.end);
                    }
                    continue;
                }
                _ => continue,
            };
            let id = Id(tree.nodes.len());
            tree.nodes.push(Node { span, anchored: anchor != 0, content });
            if anchor != 0 {
                anchors.insert(anchor, id);
            }
            match open.last_mut() {
                Some((_, children)) => children.push(id),
                None => tree.documents.push(id),
            }
            if opens {
                open.push((id, Vec::new()));
            }
        }
        Ok(tree)
    }

    fn close(&mut self, id: Id, children: Vec<Id>, end: usize) {
        let Some(node) = self.nodes.get_mut(id.0) else { return };
        node.span.end = end.max(node.span.start);
        match &mut node.content {
            Content::Sequence(items) => *items = children,
            Content::Mapping { pairs, .. } => {
                *pairs = children.chunks_exact(2).filter_map(|pair| Some((*pair.first()?, *pair.get(1)?))).collect();
            }
            _ => {}
        }
    }

    /// The node, if it is one of this tree.
    pub(super) fn node(&self, id: Id) -> Option<&Node> {
        self.nodes.get(id.0)
    }

    /// All nodes, in the order of the text.
    pub(super) fn all(&self) -> impl Iterator<Item = (Id, &Node)> {
        self.nodes.iter().enumerate().map(|(index, node)| (Id(index), node))
    }

    /// The node that is meant: an alias stands for another.
    pub(super) fn meant(&self, id: Id) -> Id {
        match self.node(id).map(|node| &node.content) {
            // What an alias means is never an alias itself.
            Some(Content::Alias(target)) => *target,
            _ => id,
        }
    }

    fn content(&self, id: Id) -> Option<&Content> {
        self.node(self.meant(id)).map(|node| &node.content)
    }

    /// The text of a scalar.
    pub(super) fn text(&self, id: Id) -> Option<&str> {
        match self.content(id)? {
            Content::Scalar { value, .. } => Some(value),
            _ => None,
        }
    }

    /// The items of a sequence.
    pub(super) fn items(&self, id: Id) -> &[Id] {
        match self.content(id) {
            Some(Content::Sequence(items)) => items,
            _ => &[],
        }
    }

    /// The pairs of a mapping.
    pub(super) fn pairs(&self, id: Id) -> &[(Id, Id)] {
        match self.content(id) {
            Some(Content::Mapping { pairs, .. }) => pairs,
            _ => &[],
        }
    }

    pub(super) fn is_mapping(&self, id: Id) -> bool {
        matches!(self.content(id), Some(Content::Mapping { .. }))
    }

    /// The entry `key` of a mapping: its own, else one that is merged in.
    pub(super) fn get(&self, mapping: Id, key: &str) -> Option<Entry> {
        let mut seen = HashSet::new();
        let mut next = vec![self.meant(mapping)];
        while let Some(mapping) = next.pop() {
            if !seen.insert(mapping) || seen.len() > MAX_MERGED {
                continue;
            }
            let own = |key: &str| self.pairs(mapping).iter().find(|(name, _)| self.text(*name) == Some(key));
            if let Some((key, value)) = own(key) {
                return Some(Entry { mapping, key: *key, value: *value });
            }
            if let Some((_, merged)) = own("<<") {
                // Of several, the first comes first.
                next.extend(self.items(*merged).iter().rev().map(|item| self.meant(*item)));
                if self.is_mapping(*merged) {
                    next.push(self.meant(*merged));
                }
            }
        }
        None
    }

    /// The value at `path` below a mapping.
    pub(super) fn at(&self, mapping: Id, path: &[&str]) -> Option<Id> {
        path.iter().try_fold(mapping, |at, key| self.get(at, key).map(|entry| entry.value))
    }
}
