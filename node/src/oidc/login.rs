//! In a browser on this computer: authorization code with PKCE (RFC 7636), back to a loopback address (RFC 8252 §7.3).
//!
//! ```text
//!  person ─▶ http://127.0.0.1:PORT/TICKET, once ─▶ the provider ─▶ …/callback?code&state ─▶ tokens
//! ```
//!
//! The way to the provider begins here, at an address that works once: others who see it, in `ps` of the browser, cannot go the same way and
//! have this computer signed in as them.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use aws_lc_rs::digest;
use data_encoding::BASE64URL_NOPAD;
use http_body_util::Full;
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{CACHE_CONTROL, CONNECTION, CONTENT_SECURITY_POLICY, CONTENT_TYPE, LOCATION},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use remora_proto::random::Random;
use subtle::ConstantTimeEq as _;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinSet,
    time::timeout,
};

use super::grant::{Client, Denied, Grant, NoGrant, OFFLINE, timed_out};
use crate::error::Failure;

/// Somebody looks for a password, and for a telephone.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);
/// Browsers open some ahead.
const MAX_CONNECTIONS: usize = 8;
/// For the last page to be read.
const LAST_PAGE: Duration = Duration::from_secs(2);
const CALLBACK: &str = "/callback";

/// A way through the browser that has begun.
pub(crate) struct Login<'a> {
    client: &'a Client<'a>,
    listener: TcpListener,
    redirect: String,
    /// RFC 7636 §4.1.
    verifier: String,
    door: Arc<Door>,
    /// For a browser on this computer, once.
    pub(crate) url: String,
}

/// What a browser is let through by.
struct Door {
    ticket: String,
    state: String,
    issuer: String,
    /// Where the ticket leads; gone once somebody was there.
    onward: Mutex<Option<String>>,
}

/// What the provider's last page leads to.
type Returned = Result<String, Denied>;

fn random() -> String {
    BASE64URL_NOPAD.encode(&Random::system().bytes::<32>())
}

impl<'a> Login<'a> {
    /// Opens a port on loopback; the ID token is to repeat the nonce.
    ///
    /// # Errors
    /// There is none.
    pub(crate) async fn begin(client: &'a Client<'a>, nonce: &str) -> Result<Self, Failure> {
        let listener = TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.map_err(|error| Failure::internal("loopback", error))?;
        let here = listener
            .local_addr()
            .map_err(|error| Failure::internal("loopback", error))?;
        let redirect = format!("http://{here}{CALLBACK}");
        let (verifier, state, ticket) = (random(), random(), random());
        let challenge = digest::digest(&digest::SHA256, verifier.as_bytes());
        let challenge = BASE64URL_NOPAD.encode(challenge.as_ref());
        let scope = client.scope();
        let mut query = form_urlencoded::Serializer::new(String::new());
        query
            .append_pair("response_type", "code")
            .append_pair("client_id", &client.desk.client_id)
            .append_pair("redirect_uri", &redirect)
            .append_pair("scope", &scope)
            .append_pair("state", &state)
            .append_pair("nonce", nonce)
            .append_pair("code_challenge", &challenge)
            .append_pair("code_challenge_method", "S256");
        if scope.contains(OFFLINE) {
            // Without it there is none.
            query.append_pair("prompt", "consent");
        }
        let at = client.provider.authorization.to_string();
        let mark = if at.contains('?') { '&' } else { '?' };
        Ok(Self {
            url: format!("http://{here}/{ticket}"),
            door: Arc::new(Door {
                ticket,
                state,
                issuer: client.provider.issuer.clone(),
                onward: Mutex::new(Some(format!("{at}{mark}{}", query.finish()))),
            }),
            client,
            listener,
            redirect,
            verifier,
        })
    }

    /// Waits for the person, [`PATIENCE`] at most.
    ///
    /// # Errors
    /// Nobody came, the person or the provider said no.
    pub(crate) async fn finish(self) -> Result<Grant, Failure> {
        let returned = timeout(PATIENCE, self.returned()).await;
        let issuer = &self.client.provider.issuer;
        let code = returned
            .map_err(|_| timed_out())?
            .map_err(|denied| denied.into_failure(issuer))?;
        let fields = [
            ("grant_type", "authorization_code"),
            ("code", &code),
            ("redirect_uri", &self.redirect),
            ("code_verifier", &self.verifier),
        ];
        let grant = self.client.tokens(&fields).await;
        grant.map_err(|no: NoGrant| no.into_failure(issuer))
    }

    async fn returned(&self) -> Returned {
        let (sender, mut answers) = mpsc::channel(1);
        let mut connections = JoinSet::new();
        let returned = loop {
            tokio::select! { biased;
                Some(returned) = answers.recv() => break returned,
                Some(_) = connections.join_next(), if !connections.is_empty() => {}
                accepted = self.listener.accept(), if connections.len() < MAX_CONNECTIONS => {
                    if let Ok((tcp, _)) = accepted {
                        connections.spawn(serve(tcp, Arc::clone(&self.door), sender.clone()));
                    }
                }
            }
        };
        let last = async { while connections.join_next().await.is_some() {} };
        if timeout(LAST_PAGE, last).await.is_err() {
            tracing::debug!("a browser keeps its connection");
        }
        returned
    }
}

async fn serve(tcp: TcpStream, door: Arc<Door>, sender: mpsc::Sender<Returned>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let page = door.page(&request, &sender);
        async move { Ok::<_, std::convert::Infallible>(page) }
    });
    let connection = http1::Builder::new()
        .keep_alive(false)
        .serve_connection(TokioIo::new(tcp), service);
    if let Ok(Err(error)) = timeout(PATIENCE, connection).await {
        tracing::debug!(%error, "a browser");
    }
}

impl Door {
    fn page(
        &self,
        request: &Request<Incoming>,
        sender: &mpsc::Sender<Returned>,
    ) -> Response<Full<Bytes>> {
        let is_same = |text: &str, ours: &str| text.as_bytes().ct_eq(ours.as_bytes()).into();
        let uri = request.uri();
        let ticket = uri.path().trim_start_matches('/');
        if request.method() != hyper::Method::GET {
            return page(StatusCode::METHOD_NOT_ALLOWED, "This is no such page.");
        }
        if is_same(ticket, &self.ticket) {
            let mut onward = self.onward.lock().unwrap_or_else(PoisonError::into_inner);
            return match onward.take() {
                Some(url) => redirect(&url),
                None => page(
                    StatusCode::GONE,
                    "This address works once. If it was not you, press Ctrl-C and run remora sign-in again.",
                ),
            };
        }
        if uri.path() != CALLBACK {
            return page(StatusCode::NOT_FOUND, "There is nothing here.");
        }
        let query = uri.query().unwrap_or_default();
        let field = |name: &str| {
            form_urlencoded::parse(query.as_bytes())
                .find(|(key, _)| key == name)
                .map(|(_, value)| value.into_owned())
        };
        // RFC 9207 §2.4: of another provider, it is none of ours.
        let is_issuer = field("iss").is_none_or(|issuer| issuer == self.issuer);
        if !field("state").is_some_and(|state| is_same(&state, &self.state)) || !is_issuer {
            return page(StatusCode::BAD_REQUEST, "Nobody has asked for this here.");
        }
        let (returned, text) = match (field("code"), field("error")) {
            (Some(code), None) => (
                Ok(code),
                "Thank you. Remora goes on by itself; this page can be closed.",
            ),
            (_, error) => (
                Err(Denied {
                    error: error.unwrap_or_default(),
                }),
                "You are not signed in. This page can be closed.",
            ),
        };
        // The first one counts.
        match sender.try_send(returned) {
            Ok(()) => page(StatusCode::OK, text),
            Err(_) => page(StatusCode::GONE, "Somebody was here already."),
        }
    }
}

fn answer(status: StatusCode) -> hyper::http::response::Builder {
    Response::builder()
        .status(status)
        .header(CONNECTION, "close")
        .header(CACHE_CONTROL, "no-store")
        .header("referrer-policy", "no-referrer")
        .header(CONTENT_SECURITY_POLICY, "default-src 'none'")
}

fn page(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    let html = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Remora</title><h1>Remora</h1><p>{text}</p></html>"
    );
    answer(status)
        .header(CONTENT_TYPE, "text/html; charset=utf-8")
        .body(Full::from(html))
        .expect("headers of ours are valid")
}

fn redirect(url: &str) -> Response<Full<Bytes>> {
    let response = answer(StatusCode::FOUND)
        .header(LOCATION, url)
        .body(Full::default());
    response.unwrap_or_else(|_| {
        page(
            StatusCode::BAD_GATEWAY,
            "The provider's address is none for a browser.",
        )
    })
}
