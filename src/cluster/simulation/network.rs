//! A network of byte streams between the nodes, as TCP gives them: what arrives is in order and whole, or the stream breaks.
//!
//! tonic runs on it as it does on sockets. Segments take a time of their own; lost ones come later, since TCP sends them again;
//! streams overtake each other. A cut link holds what is sent on it; a killed node resets its streams, one without power says
//! nothing. A cut may be of one direction only.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use futures_util::Stream;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;
use tonic::transport::server::Connected;
use tonic::transport::{Channel, Endpoint};

use super::trace;
use crate::cluster::peers::Dial;

/// The network, shared by all nodes of one simulation.
#[derive(Clone)]
pub(super) struct Network(Arc<Mutex<Inner>>);

struct Inner {
    now: u64,
    rng: StdRng,
    /// Milliseconds that a segment takes, at least and at most.
    delay: (u64, u64),
    /// Of a thousand segments so many are lost once.
    loss: u32,
    /// Links, by sender and receiver, on which nothing travels.
    cut: BTreeSet<(u64, u64)>,
    /// Milliseconds more on a link.
    slow: BTreeMap<(u64, u64), u64>,
    /// Nodes without power: they do not even refuse.
    dark: BTreeSet<u64>,
    /// When something last came to a node.
    heard: BTreeMap<u64, u64>,
    pipes: Vec<Pipe>,
    listeners: BTreeMap<u64, Listener>,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    /// Connections under way, by their first pipe.
    connecting: BTreeMap<usize, oneshot::Sender<io::Result<()>>>,
    counter: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// Something arrives at the end of a pipe.
    Arrival(usize),
    /// The request for a connection arrives: of the pipe to the listener; the one back is the next.
    Request(usize),
    /// The answer to it arrives.
    Answer(usize, bool),
}

enum Item {
    Data(Vec<u8>),
    End,
    Reset,
}

/// One direction of a connection.
struct Pipe {
    from: u64,
    to: u64,
    under_way: VecDeque<(u64, Item)>,
    last_due: u64,
    held: VecDeque<Item>,
    arrived: VecDeque<Vec<u8>>,
    /// Read of the first chunk.
    read: usize,
    ended: bool,
    reset: bool,
    reader_gone: bool,
    waker: Option<Waker>,
}

#[derive(Default)]
struct Listener {
    accepted: VecDeque<SimulatedStream>,
    waker: Option<Waker>,
}

impl Network {
    pub(super) fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let delay = [(1, 2), (1, 4), (2, 12)][rng.random_range(0..3)];
        let loss = [0, 0, 2, 10][rng.random_range(0..4)];
        Self(Arc::new(Mutex::new(Inner {
            now: 0,
            rng,
            delay,
            loss,
            cut: BTreeSet::new(),
            slow: BTreeMap::new(),
            dark: BTreeSet::new(),
            heard: BTreeMap::new(),
            pipes: Vec::new(),
            listeners: BTreeMap::new(),
            events: BinaryHeap::new(),
            connecting: BTreeMap::new(),
            counter: 0,
        })))
    }

    /// Lets arrive what is due at `now`.
    pub(super) fn pass(&self, now: u64) {
        let mut inner = self.0.lock();
        inner.now = now;
        let mut wakers = Vec::new();
        let mut answers = Vec::new();
        while inner.events.peek().is_some_and(|Reverse((due, ..))| *due <= now) {
            let Some(Reverse((_, _, event))) = inner.events.pop() else { break };
            match event {
                Event::Arrival(pipe) => wakers.extend(inner.arrive(pipe)),
                Event::Request(pipe) => wakers.extend(inner.requested(pipe, self)),
                Event::Answer(pipe, accepted) => {
                    if let Some(answer) = inner.connecting.remove(&pipe) {
                        answers.push((pipe, answer, accepted));
                    }
                }
            }
        }
        drop(inner);
        for (pipe, answer, accepted) in answers {
            let result = if accepted { Ok(()) } else { Err(io::Error::from(io::ErrorKind::ConnectionRefused)) };
            if answer.send(result).is_err() {
                // Who asked has given up.
                self.0.lock().pipes[pipe + 1].reader_gone = true;
            }
        }
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Connections to `node`, from now on.
    pub(super) fn listen(&self, node: u64) -> Incoming {
        let mut inner = self.0.lock();
        inner.dark.remove(&node);
        inner.listeners.insert(node, Listener::default());
        Incoming { network: self.clone(), node }
    }

    /// How `node` reaches the others.
    pub(super) fn dial(&self, node: u64) -> Arc<dyn Dial> {
        Arc::new(Dialer { network: self.clone(), node })
    }

    /// Nothing of `node` is there any more. Without power, nobody is told.
    pub(super) fn kill(&self, node: u64, power_lost: bool) {
        let mut inner = self.0.lock();
        let listener = inner.listeners.remove(&node);
        if power_lost {
            inner.dark.insert(node);
        }
        for index in 0..inner.pipes.len() {
            let pipe = &mut inner.pipes[index];
            if pipe.to == node {
                pipe.reader_gone = true;
                pipe.waker = None;
            }
            if pipe.from == node && !pipe.reset {
                pipe.held.clear();
                if power_lost {
                    pipe.under_way.clear();
                } else {
                    inner.send(index, Item::Reset);
                }
            }
        }
        drop(inner);
        drop(listener);
    }

    /// Nothing travels from `from` to `to`.
    pub(super) fn cut(&self, from: u64, to: u64) {
        self.0.lock().cut.insert((from, to));
    }

    /// Makes the link from `from` to `to` slower.
    pub(super) fn slow(&self, from: u64, to: u64, milliseconds: u64) {
        self.0.lock().slow.insert((from, to), milliseconds);
    }

    /// All links work; what was held travels on, or the connections break.
    pub(super) fn heal(&self, breaks: bool) {
        let mut inner = self.0.lock();
        inner.cut.clear();
        inner.slow.clear();
        for index in 0..inner.pipes.len() {
            let held = std::mem::take(&mut inner.pipes[index].held);
            if held.is_empty() {
                continue;
            }
            if breaks {
                inner.send(index, Item::Reset);
                inner.send(index ^ 1, Item::Reset);
            } else {
                for item in held {
                    inner.send(index, item);
                }
            }
        }
    }

    /// When something last came to `node`.
    pub(super) fn heard(&self, node: u64) -> u64 {
        self.0.lock().heard.get(&node).copied().unwrap_or(0)
    }

    /// From now on nothing is lost, and everything is fast.
    pub(super) fn calm(&self) {
        let mut inner = self.0.lock();
        inner.delay = (1, 2);
        inner.loss = 0;
    }

    async fn connect(self, from: u64, to: u64) -> io::Result<SimulatedStream> {
        let (sender, answer) = oneshot::channel();
        let there = {
            let mut inner = self.0.lock();
            let there = inner.pipes.len();
            inner.pipes.push(Pipe::new(from, to));
            inner.pipes.push(Pipe::new(to, from));
            inner.connecting.insert(there, sender);
            // On a cut link the request is lost; whoever waits gives up in time.
            if !inner.cut.contains(&(from, to)) {
                let due = inner.due(from, to);
                inner.schedule(due, Event::Request(there));
            }
            there
        };
        answer.await.unwrap_or_else(|_| Err(io::ErrorKind::ConnectionAborted.into()))?;
        Ok(SimulatedStream { network: self, reads: there + 1, writes: there })
    }
}

impl Inner {
    fn due(&mut self, from: u64, to: u64) -> u64 {
        let mut due = self.now + self.rng.random_range(self.delay.0..=self.delay.1) + self.slow.get(&(from, to)).unwrap_or(&0);
        if self.loss > 0 && self.rng.random_range(0..1000) < self.loss {
            // The shortest retransmission timeout of common systems.
            due += self.rng.random_range(200..400);
        }
        due
    }

    fn schedule(&mut self, due: u64, event: Event) {
        self.counter += 1;
        self.events.push(Reverse((due, self.counter, event)));
    }

    fn send(&mut self, index: usize, item: Item) {
        let (from, to) = (self.pipes[index].from, self.pipes[index].to);
        if self.cut.contains(&(from, to)) {
            self.pipes[index].held.push_back(item);
            return;
        }
        let due = self.due(from, to).max(self.pipes[index].last_due);
        let pipe = &mut self.pipes[index];
        pipe.last_due = due;
        if let (Item::Data(more), Some((last, Item::Data(data)))) = (&item, pipe.under_way.back_mut())
            && *last == due
        {
            data.extend_from_slice(more);
            return;
        }
        pipe.under_way.push_back((due, item));
        self.schedule(due, Event::Arrival(index));
    }

    fn arrive(&mut self, index: usize) -> Option<Waker> {
        let now = self.now;
        let dark = self.dark.contains(&self.pipes[index].to);
        let (mut refuse, mut heard) = (false, false);
        let pipe = &mut self.pipes[index];
        while pipe.under_way.front().is_some_and(|(due, _)| *due <= now) {
            let Some((_, item)) = pipe.under_way.pop_front() else { break };
            if dark {
                continue;
            }
            match item {
                Item::Data(data) => {
                    // Not of what length: a date in a header may be coded shorter.
                    trace::note(5, index as u64);
                    if pipe.reader_gone {
                        refuse = true;
                    } else {
                        heard = true;
                        pipe.arrived.push_back(data);
                    }
                }
                Item::End => pipe.ended = true,
                Item::Reset => pipe.reset = true,
            }
        }
        let waker = pipe.waker.take();
        if heard {
            let to = pipe.to;
            self.heard.insert(to, now);
        }
        if refuse {
            self.send(index ^ 1, Item::Reset);
        }
        waker
    }

    fn requested(&mut self, index: usize, network: &Network) -> Option<Waker> {
        let (from, to) = (self.pipes[index].from, self.pipes[index].to);
        if self.dark.contains(&to) {
            return None;
        }
        let answer = (!self.cut.contains(&(to, from))).then(|| self.due(to, from));
        let listener = self.listeners.get_mut(&to);
        let accepted = listener.is_some();
        let waker = listener.and_then(|listener| {
            listener.accepted.push_back(SimulatedStream { network: network.clone(), reads: index, writes: index + 1 });
            listener.waker.take()
        });
        if let Some(due) = answer {
            self.schedule(due, Event::Answer(index, accepted));
        }
        waker
    }
}

impl Pipe {
    fn new(from: u64, to: u64) -> Self {
        Self {
            from,
            to,
            under_way: VecDeque::new(),
            last_due: 0,
            held: VecDeque::new(),
            arrived: VecDeque::new(),
            read: 0,
            ended: false,
            reset: false,
            reader_gone: false,
            waker: None,
        }
    }
}

/// One end of a connection.
pub(super) struct SimulatedStream {
    network: Network,
    reads: usize,
    writes: usize,
}

impl AsyncRead for SimulatedStream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.network.0.lock();
        let pipe = &mut inner.pipes[self.reads];
        if pipe.reset {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if let Some(chunk) = pipe.arrived.front() {
            let rest = &chunk[pipe.read..];
            let size = rest.len().min(buffer.remaining());
            buffer.put_slice(&rest[..size]);
            if size == rest.len() {
                pipe.arrived.pop_front();
                pipe.read = 0;
            } else {
                pipe.read += size;
            }
            return Poll::Ready(Ok(()));
        }
        if pipe.ended {
            return Poll::Ready(Ok(()));
        }
        pipe.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

impl AsyncWrite for SimulatedStream {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut inner = self.network.0.lock();
        if inner.pipes[self.reads].reset {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        inner.send(self.writes, Item::Data(bytes.to_vec()));
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.network.0.lock().send(self.writes, Item::End);
        Poll::Ready(Ok(()))
    }
}

impl Drop for SimulatedStream {
    fn drop(&mut self) {
        let mut inner = self.network.0.lock();
        // A killed node's ends are gone already.
        if !inner.pipes[self.reads].reader_gone {
            inner.pipes[self.reads].reader_gone = true;
            inner.send(self.writes, Item::End);
        }
    }
}

impl Connected for SimulatedStream {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

/// The connections that a node accepts.
pub(super) struct Incoming {
    network: Network,
    node: u64,
}

impl Stream for Incoming {
    type Item = io::Result<SimulatedStream>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut inner = self.network.0.lock();
        let Some(listener) = inner.listeners.get_mut(&self.node) else { return Poll::Ready(None) };
        if let Some(stream) = listener.accepted.pop_front() {
            return Poll::Ready(Some(Ok(stream)));
        }
        listener.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

struct Dialer {
    network: Network,
    node: u64,
}

impl Dial for Dialer {
    fn channel(&self, endpoint: &Endpoint) -> Channel {
        let (network, from) = (self.network.clone(), self.node);
        endpoint.connect_with_connector_lazy(tower::service_fn(move |address: http::Uri| {
            let network = network.clone();
            async move {
                // Node 7 is the host `n7`.
                let to = address.host().and_then(|host| host.strip_prefix('n')).and_then(|id| id.parse().ok());
                let to = to.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
                network.connect(from, to).await.map(TokioIo::new)
            }
        }))
    }
}
