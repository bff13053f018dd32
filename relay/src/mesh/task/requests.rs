//! What other relays ask, and what they are asked.

use std::time::Instant;

use futures_util::FutureExt as _;
use libp2p::{
    PeerId,
    request_response::{self, Message, OutboundRequestId, ResponseChannel},
    swarm,
};
use remora_proto::{
    id::RelayId,
    wire::message::mesh::{
        Reason, Request, Response, request::Body as Ask, response::Body as Answer,
    },
};
use tokio::sync::oneshot;

use super::{Open, Task, budget::Budget};
use crate::{
    admin::metrics::RpcKind,
    mesh::{
        self, AskError, Asked,
        identity::{peer_id, relay_id},
    },
};

impl Task {
    pub(super) fn send(
        &mut self,
        relay: RelayId,
        request: Request,
        answer: oneshot::Sender<Result<Answer, AskError>>,
        since: Instant,
    ) {
        let kind = request.body.as_ref().map(mesh::kind);
        let requests = &mut self.swarm.behaviour_mut().requests;
        let id = requests.send_request(&peer_id(relay), request);
        let open = Open::Asked {
            kind,
            since,
            answer,
        };
        self.open.insert(id, open);
    }

    pub(super) fn handle_request_event(
        &mut self,
        event: request_response::Event<Request, Response>,
        now: Instant,
    ) {
        match event {
            request_response::Event::Message {
                peer,
                connection_id,
                message:
                    Message::Request {
                        request, channel, ..
                    },
            } => self.handle_request((peer, connection_id), request, channel, now),
            request_response::Event::Message {
                peer,
                connection_id,
                message:
                    Message::Response {
                        request_id,
                        response,
                    },
            } => {
                let answer = response.body;
                let answer = answer.unwrap_or_else(|| mesh::refused(Reason::Malformed));
                self.handle_answer((peer, connection_id), request_id, Ok(answer), now);
            }
            request_response::Event::OutboundFailure {
                peer,
                connection_id,
                request_id,
                error,
            } => {
                tracing::debug!(%error, relay = ?relay_id(&peer), "a request of the mesh failed");
                let failed = Err(AskError::Unreachable);
                self.handle_answer((peer, connection_id), request_id, failed, now);
            }
            request_response::Event::InboundFailure { .. }
            | request_response::Event::ResponseSent { .. } => {}
        }
    }

    fn handle_request(
        &mut self,
        by: (PeerId, swarm::ConnectionId),
        request: Request,
        channel: ResponseChannel<Response>,
        now: Instant,
    ) {
        let (peer, _) = by;
        let Some(from) = relay_id(&peer) else { return };
        let budget = self.budgets.entry(peer);
        let budget = budget.or_insert_with(|| Budget::new(now));
        if !budget.take(request.body.as_ref(), now) {
            return self.respond(channel, mesh::refused(Reason::Busy));
        }
        let answer = match request.body {
            None => mesh::refused(Reason::Malformed),
            Some(Ask::Hello(hello)) => match self.hear(from, by.1, &hello, now) {
                Ok(()) => Answer::Hello(self.hello(from)),
                Err(reason) => {
                    self.shun(from, by.1, now);
                    mesh::refused(reason)
                }
            },
            Some(_) if !self.members.may_ask(from) => mesh::refused(Reason::Stranger),
            Some(Ask::Keep(keep)) => self.shelf.keep(from, keep),
            Some(Ask::Forget(forget)) => self.shelf.forget_for(from, &forget),
            Some(Ask::Find(find)) => self.shelf.find_for(&find),
            Some(request) => return self.pass_on(from, request, channel),
        };
        self.respond(channel, answer);
    }

    /// Control answers, in a moment.
    fn pass_on(&mut self, from: RelayId, request: Ask, channel: ResponseChannel<Response>) {
        let (answer, answered) = oneshot::channel();
        let asked = Asked {
            from,
            request,
            answer,
        };
        if self.work.asked.try_send(asked).is_err() {
            return self.respond(channel, mesh::refused(Reason::Busy));
        }
        let answered = answered.map(|answer| {
            let answer = answer.unwrap_or_else(|_| mesh::refused(Reason::Busy));
            (channel, answer)
        });
        self.answering.push(answered.boxed());
    }

    pub(super) fn respond(&mut self, channel: ResponseChannel<Response>, answer: Answer) {
        let response = Response { body: Some(answer) };
        let requests = &mut self.swarm.behaviour_mut().requests;
        // Who asked is gone, or has waited long enough: it asks again if it wants to know.
        requests.send_response(channel, response).ok();
    }

    fn handle_answer(
        &mut self,
        by: (PeerId, swarm::ConnectionId),
        id: OutboundRequestId,
        answered: Result<Answer, AskError>,
        now: Instant,
    ) {
        match self.open.remove(&id) {
            Some(Open::Hello { since }) => {
                self.count(Some(RpcKind::Other), &answered, since, now);
                self.handle_greeting(by, answered, now);
            }
            Some(Open::Asked {
                kind,
                since,
                answer,
            }) => {
                self.count(kind, &answered, since, now);
                // Nobody may want to know any more.
                answer.send(answered).ok();
            }
            None => {}
        }
    }

    fn count(
        &self,
        kind: Option<RpcKind>,
        answered: &Result<Answer, AskError>,
        since: Instant,
        now: Instant,
    ) {
        let Some(kind) = kind else { return };
        let seconds = now.saturating_duration_since(since).as_secs_f64();
        self.metrics.rpc(kind, mesh::result(answered), seconds);
    }
}
