//! From what was found to edits, notes and mistakes.

use std::collections::BTreeMap;

use super::find::Found;
use super::name::{Name, name};
use super::tree::{Content, Entry, Id, Tree};
use super::{Edit, Pairs, Remark, Rewritten, edit};
use crate::registry::{Through, TurnError};

/// One image, however often it is used.
#[derive(Default)]
struct Image {
    /// The connections it is used with.
    connections: Vec<Entry>,
    /// The values by which it is used: itself, and aliases.
    uses: Vec<Id>,
    certain: bool,
}

pub(super) struct Turning<'a> {
    text: &'a str,
    tree: &'a Tree,
    through: &'a Through,
    pairs: Pairs,
    edits: Vec<Edit>,
    notes: Vec<Remark>,
    mistakes: Vec<Remark>,
}

/// What became of an image.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It goes through the proxy.
    Turned,
    /// It is as it was, and needs its connection.
    Left,
}

impl<'a> Turning<'a> {
    pub(super) fn new(text: &'a str, tree: &'a Tree, through: &'a Through, pairs: Pairs) -> Turning<'a> {
        Turning { text, tree, through, pairs, edits: Vec::new(), notes: Vec::new(), mistakes: Vec::new() }
    }

    pub(super) fn turn(mut self, found: Vec<Found>) -> Result<Rewritten, Vec<Remark>> {
        let mut images: BTreeMap<Id, Image> = BTreeMap::new();
        for found in found {
            match found {
                Found::Image { value, connection, certain } => {
                    let image = images.entry(self.tree.meant(value)).or_default();
                    image.connections.extend(connection);
                    image.uses.push(value);
                    image.certain |= certain;
                }
                Found::Parts { registry, repository } => self.parts(registry, repository),
                Found::Left { at, why } => self.left(at, why),
            }
        }
        let (mut done, mut needed): (Vec<Entry>, Vec<Entry>) = (Vec::new(), Vec::new());
        for (id, image) in images {
            match self.image(id, &image) {
                Fate::Turned => done.extend(image.connections),
                Fate::Left => needed.extend(image.connections),
            }
        }
        if self.pairs == Pairs::Resolve {
            done.retain(|entry| !needed.contains(entry));
            self.take_out(done);
        }
        let Turning { text, mut edits, mut notes, mut mistakes, .. } = self;
        if !mistakes.is_empty() {
            mistakes.sort();
            mistakes.dedup();
            return Err(mistakes);
        }
        edits.sort_by_key(|edit| edit.range.start);
        edits.dedup();
        notes.sort();
        notes.dedup();
        Ok(Rewritten { text: apply(text, &edits), edits, notes })
    }

    fn image(&mut self, id: Id, image: &Image) -> Fate {
        let Some(value) = self.tree.text(id) else { return Fate::Left };
        let name = match name(value.trim()) {
            Name::Known(name) => name,
            Name::Template => return self.leave(id, "a template fills in its name"),
            Name::Invalid(error) if image.certain => {
                return self.refuse(id, &TurnError::Invalid { image: value.trim().to_owned(), error });
            }
            Name::Invalid(error) => return self.leave(id, &error.to_string()),
        };
        let mut connection: Option<(Entry, &str)> = None;
        for entry in &image.connections {
            let Some(named) = self.tree.text(entry.value).map(str::trim) else {
                return self.leave(entry.value, "this is no name of a registry");
            };
            if named.contains(['$', '{']) {
                return self.leave(entry.value, "a template fills it in");
            }
            match connection {
                Some((_, other)) if !other.eq_ignore_ascii_case(named) => {
                    let message =
                        format!("`{value}` is used with `{other}` and with `{named}`, and can be turned once only");
                    let fix = "write the image out in both places".to_owned();
                    let remark = self.remark(entry.value, message, Some(fix));
                    self.mistakes.push(remark);
                    return Fate::Left;
                }
                _ => connection = Some((*entry, named)),
            }
        }
        let turned = match self.through.turn(name, connection.map(|(_, named)| named)) {
            Ok(turned) => turned,
            Err(error @ TurnError::NoSuchRegistry { .. }) => {
                return self.refuse(connection.map_or(id, |(entry, _)| entry.value), &error);
            }
            Err(error) => return self.refuse(id, &error),
        };
        if !turned.unchanged && !self.replace(id, name, &turned.name) {
            return Fate::Left;
        }
        let anchored = self.tree.node(id).is_some_and(|node| node.anchored);
        let is_elsewhere = |alias: Id, content: &Content| {
            matches!(content, Content::Alias(target) if *target == id) && !image.uses.contains(&alias)
        };
        if anchored && !turned.unchanged && self.tree.all().any(|(alias, node)| is_elsewhere(alias, &node.content)) {
            let message = "its anchor is also used where no image is expected, and changes there too";
            let remark = self.remark(id, message.to_owned(), None);
            self.notes.push(remark);
        }
        Fate::Turned
    }

    /// Takes out the connections that no image needs any more.
    fn take_out(&mut self, connections: Vec<Entry>) {
        for entry in connections {
            match edit::remove(self.text, self.tree, entry) {
                Some(edit) => self.edits.push(edit),
                None => self.left(entry.key, "it cannot be taken out without touching what is around it"),
            }
        }
    }

    /// Helm's way: `registry` and `repository` are values of their own.
    fn parts(&mut self, registry: Option<Id>, repository: Id) {
        let (registry, repository) = (registry.map(|id| self.tree.meant(id)), self.tree.meant(repository));
        let text = |id| self.tree.text(id).map(str::trim).unwrap_or_default();
        let first = registry.map(text).unwrap_or_default();
        let second = text(repository);
        let image = if first.is_empty() { second.to_owned() } else { format!("{first}/{second}") };
        // A tag that stands in the repository stays there.
        let name = match name(&image) {
            Name::Known(name) => name,
            Name::Template => return self.left(repository, "a template fills in its name"),
            Name::Invalid(error) => return self.left(repository, &error.to_string()),
        };
        match self.through.turn(name, None) {
            Ok(turned) if turned.unchanged => {}
            Ok(turned) => {
                let host = self.through.host();
                let old = name.get(first.len()..).unwrap_or_default().trim_start_matches('/');
                match (registry, turned.name.strip_prefix(host).and_then(|rest| rest.strip_prefix('/'))) {
                    (Some(registry), Some(rest)) if !first.is_empty() => {
                        if self.replace(repository, old, rest) {
                            self.replace(registry, first, host);
                        }
                    }
                    _ => {
                        self.replace(repository, old, &turned.name);
                    }
                }
            }
            Err(error) => self.wrong(repository, &error),
        }
    }

    fn replace(&mut self, id: Id, old: &str, new: &str) -> bool {
        let edit = self.tree.node(id).and_then(|node| edit::replace(self.text, node, old, new));
        let done = edit.is_some();
        match edit {
            Some(edit) => self.edits.push(edit),
            None => self.left(id, "it is written in a way that cannot be changed in place"),
        }
        done
    }

    fn remark(&self, id: Id, message: String, fix: Option<String>) -> Remark {
        let at = self.tree.node(id).map_or(0, |node| node.span.start);
        Remark::at(self.text, at, message, fix)
    }

    fn leave(&mut self, id: Id, why: &str) -> Fate {
        self.left(id, why);
        Fate::Left
    }

    fn refuse(&mut self, id: Id, error: &TurnError) -> Fate {
        self.wrong(id, error);
        Fate::Left
    }

    fn left(&mut self, id: Id, why: &str) {
        let shown = self.tree.node(id).and_then(|node| self.text.get(node.span.clone()));
        let shown = shown.and_then(|shown| shown.lines().next()).unwrap_or_default();
        let remark = self.remark(id, format!("`{shown}` is left as it is: {why}"), None);
        self.notes.push(remark);
    }

    fn wrong(&mut self, id: Id, error: &TurnError) {
        let remark = self.remark(id, error.to_string(), error.fix());
        self.mistakes.push(remark);
    }
}

fn apply(text: &str, edits: &[Edit]) -> String {
    let (mut out, mut at) = (String::with_capacity(text.len()), 0);
    for Edit { range, text: new } in edits {
        out.push_str(text.get(at..range.start).unwrap_or_default());
        out.push_str(new);
        at = range.end.max(at);
    }
    out.push_str(text.get(at..).unwrap_or_default());
    out
}
