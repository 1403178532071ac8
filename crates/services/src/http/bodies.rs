//! What flows through: never a whole body at once, each piece as it comes.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};

use super::direct::Flow;
use super::io::UnderWay;
use super::pipes::Bypass;
use super::record::Record;
use super::serve::Open;
use super::upstream::Lease;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Why a client's body was not taken to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// It is longer than it may be.
    TooLong,
    /// It came too slowly.
    TooSlow,
}

/// What is shared between a request on its way and who waits for its answer.
#[derive(Debug, Default)]
pub struct Upload {
    /// Why it was cut.
    pub cut: Cell<Option<Cut>>,
    /// Whether the guest is answering: as long as it does, both may take their time.
    pub answering: Cell<bool>,
}

/// A request's body, to a guest.
#[derive(Debug)]
pub enum Up {
    /// None.
    Nothing,
    /// A client's.
    Client(Box<Uploading>),
}

/// A client's body on its way.
#[derive(Debug)]
pub struct Uploading {
    body: Incoming,
    upload: Rc<Upload>,
    left: Option<u64>,
    patience: Duration,
    /// When so much must have come as is wanted at least.
    due: Option<Pin<Box<Sleep>>>,
    /// What came since that was set.
    came: u64,
}

/// What must come within a `timeout` of a body that nobody answers yet, in bytes: less is an attack on our patience.
const AT_LEAST: u64 = 1024;

impl Up {
    /// A client's, of at most `most` bytes.
    pub fn of(body: Incoming, upload: Rc<Upload>, most: Option<u64>, patience: Duration) -> Self {
        if body.is_end_stream() {
            return Self::Nothing;
        }
        Self::Client(Box::new(Uploading { body, upload, left: most, patience, due: None, came: 0 }))
    }
}

impl Uploading {
    fn cut(&self, why: Cut) -> Error {
        self.upload.cut.set(Some(why));
        io::Error::other(format!("the client's body was cut: {why:?}")).into()
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) else {
            return if self.is_late(cx) { Poll::Ready(Some(Err(self.cut(Cut::TooSlow)))) } else { Poll::Pending };
        };
        let Some(frame) = frame else { return Poll::Ready(None) };
        let frame = match frame {
            Ok(frame) => frame,
            Err(e) => return Poll::Ready(Some(Err(e.into()))),
        };
        if let Some(data) = frame.data_ref() {
            let count = data.len() as u64;
            self.came += count;
            if let Some(left) = self.left {
                match left.checked_sub(count) {
                    Some(left) => self.left = Some(left),
                    None => return Poll::Ready(Some(Err(self.cut(Cut::TooLong)))),
                }
            }
        }
        Poll::Ready(Some(Ok(frame)))
    }

    /// Whether too little came for too long. A stream that is being answered may rest.
    fn is_late(&mut self, cx: &mut Context<'_>) -> bool {
        loop {
            let patience = self.patience;
            let due = self.due.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
            if due.as_mut().poll(cx).is_pending() {
                return false;
            }
            if self.came < AT_LEAST && !self.upload.answering.get() {
                return true;
            }
            self.came = 0;
            due.as_mut().reset(Instant::now() + patience);
        }
    }
}

impl Body for Up {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        match &mut *self {
            Self::Nothing => Poll::Ready(None),
            Self::Client(uploading) => uploading.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Nothing => true,
            Self::Client(uploading) => uploading.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Nothing => SizeHint::with_exact(0),
            Self::Client(uploading) => uploading.body.size_hint(),
        }
    }
}

/// An answer's body, to a client; with it ends what the request held.
#[derive(Debug)]
pub struct Down {
    body: Content,
    lease: Option<Lease>,
    record: Option<Box<Record>>,
    open: Option<Open>,
    under_way: Option<UnderWay>,
    upload: Option<Rc<Upload>>,
}

impl Drop for Down {
    fn drop(&mut self) {
        // What is still to come of the request is for nobody.
        self.upload.iter().for_each(|upload| upload.answering.set(false));
    }
}

#[derive(Debug)]
enum Content {
    Nothing,
    Own(Bytes),
    Guest(Source),
}

/// A guest's answer's body.
#[derive(Debug)]
pub enum Source {
    /// As hyper reads it.
    Hyper(Incoming),
    /// Straight from its connection.
    Direct(Box<Flow>),
}

impl Source {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        match self {
            Self::Hyper(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
            Self::Direct(flow) => flow.poll_frame(cx).map_err(Into::into),
        }
    }

    fn is_over(&self) -> bool {
        match self {
            Self::Hyper(body) => body.is_end_stream(),
            Self::Direct(flow) => flow.is_over(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Hyper(body) => body.size_hint(),
            Self::Direct(flow) => flow.left().map_or_else(SizeHint::new, SizeHint::with_exact),
        }
    }
}

impl Down {
    /// None.
    #[must_use]
    pub fn nothing() -> Self {
        Self { body: Content::Nothing, lease: None, record: None, open: None, under_way: None, upload: None }
    }

    /// Of our own.
    #[must_use]
    pub fn of(text: Bytes) -> Self {
        Self { body: Content::Own(text), lease: None, record: None, open: None, under_way: None, upload: None }
    }

    /// A guest's, by the connection that is leased until all of it is there.
    #[must_use]
    pub fn from_guest(body: Source, lease: Lease, upload: Rc<Upload>) -> Self {
        let mut down = Self::nothing();
        (down.body, down.lease, down.upload) = (Content::Guest(body), Some(lease), Some(upload));
        down.settle();
        down
    }

    /// What is written down at its end.
    pub fn recorded(&mut self, record: Box<Record>) {
        self.record = Some(record);
    }

    /// It is under way until it ends.
    pub fn counts(&mut self, under_way: UnderWay) {
        self.under_way = Some(under_way);
    }

    /// The client is reached by this.
    pub fn bypasses(&mut self, bypass: &Arc<Bypass>) {
        if let Content::Guest(Source::Direct(flow)) = &mut self.body {
            flow.bypasses(bypass);
        }
    }

    /// What is open as long as this is.
    pub fn keeps(&mut self, open: Open) {
        self.open = Some(open);
    }

    /// A guest's connection is free as soon as all is there.
    fn settle(&mut self) {
        if let Content::Guest(body) = &self.body
            && body.is_over()
        {
            self.free();
        }
    }

    /// All is there.
    fn free(&mut self) {
        let Some(lease) = self.lease.take() else { return };
        match std::mem::replace(&mut self.body, Content::Nothing) {
            Content::Guest(Source::Direct(flow)) => {
                if let Some(wire) = flow.into_wire() {
                    lease.give_back_wire(wire);
                }
            }
            _ => lease.give_back(),
        }
    }
}

impl Body for Down {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let frame = match &mut self.body {
            Content::Nothing => None,
            Content::Own(text) if text.is_empty() => None,
            Content::Own(text) => Some(Ok(Frame::data(std::mem::take(text)))),
            Content::Guest(body) => ready!(body.poll_frame(cx)),
        };
        match &frame {
            Some(Ok(frame)) => {
                if let (Some(data), Some(record)) = (frame.data_ref(), &mut self.record) {
                    record.bytes += data.len() as u64;
                }
                self.settle();
            }
            Some(Err(_)) => self.lease = None,
            None => self.free(),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.body {
            Content::Nothing => true,
            Content::Own(text) => text.is_empty(),
            Content::Guest(body) => body.is_over(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.body {
            Content::Nothing => SizeHint::with_exact(0),
            Content::Own(text) => SizeHint::with_exact(text.len() as u64),
            Content::Guest(body) => body.size_hint(),
        }
    }
}
