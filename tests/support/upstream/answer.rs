//! What the upstream answers, byte by byte, and how it is put on the wire.

use std::io::{self, Write};

use super::gate::Gate;

/// One answer, as it will be written. A rule may change any of it.
#[derive(Clone)]
pub(crate) struct Answer {
    /// The status code.
    pub(crate) status: u16,
    /// Header lines, in order; the length is not among them.
    pub(crate) headers: Vec<(String, String)>,
    /// The bytes of the body.
    pub(crate) body: Vec<u8>,
    /// What is said about the length of the body.
    pub(crate) length: Length,
    /// What happens when so many bytes of the body have been written.
    pub(crate) events: Vec<(usize, Event)>,
    /// Written in place of everything above; the connection closes after it.
    pub(crate) raw: Option<Vec<u8>>,
}

/// What an answer says about the length of its body.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Length {
    /// The truth, in `Content-Length`.
    True,
    /// This number, in `Content-Length`, whatever is sent.
    Claimed(u64),
    /// Nothing: the end of the connection ends the body.
    Untold,
}

/// Something that happens in the middle of a body.
#[derive(Clone)]
pub(crate) enum Event {
    /// The upstream waits at the gate.
    Wait(Gate),
    /// The connection is reset.
    Reset,
    /// The connection is closed in an orderly way.
    Close,
}

/// How an answer ended.
#[derive(PartialEq, Eq)]
pub(super) enum End {
    /// Complete: the connection may carry another request.
    Open,
    /// The connection is to be closed.
    Close,
    /// The connection is to be reset.
    Reset,
}

impl Answer {
    /// An answer without body.
    pub(crate) fn status(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new(), length: Length::True, events: Vec::new(), raw: None }
    }

    /// These bytes and nothing else, then the end of the connection.
    pub(crate) fn raw(bytes: impl Into<Vec<u8>>) -> Self {
        Self { raw: Some(bytes.into()), ..Self::status(200) }
    }

    /// With a header line more.
    pub(crate) fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// With another value of a header.
    pub(crate) fn replace(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.retain(|(other, _)| !other.eq_ignore_ascii_case(name));
        self.header(name, value)
    }

    /// With this body.
    pub(crate) fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// With one bit of the body wrong.
    pub(crate) fn flip(mut self, at: usize) -> Self {
        self.body[at] ^= 1;
        self
    }

    /// With something happening after `at` bytes of the body.
    pub(crate) fn at(mut self, at: usize, event: Event) -> Self {
        self.events.push((at, event));
        self
    }

    pub(super) fn write(&self, wire: &mut dyn Write, with_body: bool) -> io::Result<End> {
        if let Some(raw) = &self.raw {
            wire.write_all(raw)?;
            return Ok(End::Close);
        }
        let mut head = format!("HTTP/1.1 {} Scripted\r\n", self.status);
        match self.length {
            Length::True => head += &format!("Content-Length: {}\r\n", self.body.len()),
            Length::Claimed(length) => head += &format!("Content-Length: {length}\r\n"),
            Length::Untold => head += "Connection: close\r\n",
        }
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        head += "\r\n";
        wire.write_all(head.as_bytes())?;
        if with_body {
            let mut events = self.events.clone();
            events.sort_by_key(|(at, _)| *at);
            let mut written = 0;
            for (at, event) in events {
                wire.write_all(&self.body[written..at])?;
                wire.flush()?;
                written = at;
                match event {
                    Event::Wait(gate) => gate.pass(),
                    Event::Reset => return Ok(End::Reset),
                    Event::Close => return Ok(End::Close),
                }
            }
            wire.write_all(&self.body[written..])?;
        }
        wire.flush()?;
        let honest = self.length == Length::True || self.length == Length::Claimed(self.body.len() as u64);
        Ok(if honest { End::Open } else { End::Close })
    }
}
