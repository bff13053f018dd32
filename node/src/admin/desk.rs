//! `remora admin org serve`: an organisation's desk. It runs where the organisation's key is, and signs for whomever the provider knows.
//!
//! ```text
//!  GET  /.well-known/remora   who the organisation is, who its provider: signed
//!  POST /credential           ID token, or device code, and the line of a request ─▶ token ─▶ claims ─▶ papers for some hours
//! ```
//!
//! Whoever asks is a stranger until their token is believed: what they can have done is bounded in bytes, connections and time.

/// Who the claims say somebody is.
pub(crate) mod claims;
/// Tokens that the provider has signed.
mod keys;
/// Papers for who has signed in.
mod papers;
/// Why it does not sign.
mod refusal;
/// A certificate in files.
mod tls;

use std::{net::SocketAddr, path::PathBuf, pin::pin, sync::Arc, time::Duration};

use data_encoding::BASE64URL_NOPAD;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{CACHE_CONTROL, CONTENT_TYPE},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use remora_proto::{
    id::TlsPin,
    org::{
        desk::{Desk, MAX_ENTRIES, nonce},
        membership::Request as Line,
        policy::Policy,
        signed::Signed,
    },
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::watch,
    task::{JoinSet, spawn_blocking},
    time::{interval, timeout},
};

use self::{keys::Verifier, papers::Signer, refusal::Refusal, tls::Tls};
use super::{
    folder::{DAY_S, Folder},
    org::publish,
};
use crate::{
    cli::org::{Org, Serve},
    config::File,
    error::{Exit, Failure},
    identity::unix_s,
    oidc::{
        provider::Provider,
        secret::Secret,
        token::Token,
        web::{JSON, Web},
    },
    sign_in::{CREDENTIAL, WELL_KNOWN},
    terminal::console::{print_data, print_note},
};

/// At once; others wait in the system's queue until one has ended.
const MAX_CONNECTIONS: usize = 256;
/// Of one connection, in which one thing is asked.
const CONNECTION_LIFE: Duration = Duration::from_secs(30);
/// To say what is wanted.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two looks how old the policy is.
const POLICY_LOOK: Duration = Duration::from_secs(600);
/// The longest token, and a request.
const MAX_BODY_BYTES: usize = 24 << 10;

/// Everything that a connection needs.
struct Office {
    signer: Arc<Signer>,
    verifier: Verifier,
    /// The provider's, the organisation's, the relays': as they were when it was opened. The certificate is each connection's own.
    desk: Desk,
    json: bool,
    /// One that is to be brought to the relays.
    policy: watch::Sender<Option<Signed<Policy>>>,
}

fn usage(line: impl Into<String>) -> Failure {
    Failure::new(Exit::Usage, "USAGE", line)
}

/// Serves until the program is ended.
///
/// # Errors
/// What is wrong with flags, folder, certificate or provider.
pub(super) async fn serve(
    file: &File,
    dir: PathBuf,
    args: &Org,
    serve: &Serve,
) -> Result<Exit, Failure> {
    let mut tls = match (&serve.tls_cert, &serve.tls_key) {
        (Some(certificate), Some(key)) => Some(Tls::open(certificate, key)?),
        _ if serve.listen.ip().is_loopback() => None,
        _ => {
            return Err(usage(
                "others read along without TLS: give --tls-cert and --tls-key, or --listen on loopback, with a proxy in front that has them",
            ));
        }
    };
    let desk = desk(file, &dir, args, serve)?;
    let verifier = Verifier::new(&desk);
    // Says now that the provider's name is wrong, and not to the first person who comes.
    Provider::discover(&Web::default(), &desk.provider).await?;
    let listener = TcpListener::bind(serve.listen).await;
    let listener =
        listener.map_err(|error| usage(format!("cannot listen at {}: {error}", serve.listen)))?;
    let at = listener
        .local_addr()
        .map_err(|error| Failure::internal("listen", error))?;
    announce(&desk, at, tls.is_some(), serve.json)?;
    let signer = Arc::new(Signer::new(dir, serve));
    let (policy, changed) = watch::channel(None);
    let mut fresh = pin!(keep_policy_fresh(file, args, &signer, changed, serve.json));
    let office = Arc::new(Office {
        signer: Arc::clone(&signer),
        verifier,
        desk,
        json: serve.json,
        policy,
    });
    let mut connections = JoinSet::new();
    loop {
        tokio::select! { biased;
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            () = &mut fresh => {}
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => {
                // Out of descriptors, or gone again: the next one may do better.
                let Ok((tcp, _)) = accepted else { continue };
                let secured = tls.as_mut().map(Tls::current);
                let office = Arc::clone(&office);
                connections.spawn(timeout(CONNECTION_LIFE, async move {
                    match secured {
                        None => office.connection(tcp, None).await,
                        Some((acceptor, pin)) => if let Ok(stream) = acceptor.accept(tcp).await {
                            office.connection(stream, Some(pin)).await;
                        }
                    }
                }));
            }
        }
    }
}

/// Never returns: a relay that keeps policies back is told from a quiet week. What does not work is tried again.
async fn keep_policy_fresh(
    file: &File,
    args: &Org,
    signer: &Arc<Signer>,
    mut changed: watch::Receiver<Option<Signed<Policy>>>,
    json: bool,
) {
    let mut looks = interval(POLICY_LOOK);
    loop {
        tokio::select! { biased;
            Ok(()) = changed.changed() => {
                let policy = changed.borrow_and_update().clone();
                if let Some(policy) = policy
                    && let Err(failure) = publish(file, &args.relay, &policy).await
                {
                    tracing::error!(%failure, "the policy is not brought to the relays");
                }
                continue;
            }
            _ = looks.tick() => {}
        }
        let own = Arc::clone(signer);
        let renewed = match spawn_blocking(move || own.renew_policy()).await {
            Ok(Ok(Some(policy))) => {
                let number = policy.header.number;
                tell(json, json!({"event": "policy", "policy": number}));
                publish(file, &args.relay, &policy).await
            }
            Ok(renewed) => renewed.map(|_| ()),
            Err(error) => Err(Failure::internal("policy", error)),
        };
        if let Err(failure) = renewed {
            tracing::error!(%failure, "the policy is not signed anew");
        }
    }
}

fn desk(file: &File, dir: &std::path::Path, args: &Org, serve: &Serve) -> Result<Desk, Failure> {
    let policy = Folder::open(dir)?.policy()?;
    let secret = serve.client_secret_file.as_deref().map(|path| {
        std::fs::read_to_string(path)
            .map(|text| text.trim().to_owned())
            .map_err(|error| usage(format!("cannot read {}: {error}", path.display())))
    });
    let mut scopes = serve.scope.clone();
    if !scopes.iter().any(|scope| scope == "openid") {
        scopes.insert(0, "openid".into());
    }
    let mut relays = file.relays(&args.relay).unwrap_or_default();
    relays.truncate(MAX_ENTRIES);
    Ok(Desk {
        issuer: policy.header.issuer,
        company: policy.company.clone(),
        domain: policy.domain.clone(),
        relays,
        provider: serve.provider.clone(),
        client_id: serve.client_id.clone(),
        client_secret: secret.transpose()?,
        scopes,
        tls: None,
        userinfo: serve.userinfo,
        issued: 0,
        expires: DAY_S,
    })
}

fn announce(desk: &Desk, at: SocketAddr, is_secure: bool, json: bool) -> Result<(), Failure> {
    let scheme = if is_secure { "https" } else { "http" };
    let key = desk.issuer.to_string();
    if json {
        let told = json!({"v": 1, "event": "desk", "listen": at.to_string(), "scheme": scheme, "key": key, "domain": desk.domain,
            "provider": desk.provider});
        return print_data(&told.to_string());
    }
    print_note(&format!(
        "The desk of {} ({}) listens at {at}. People run, with the name that leads here:",
        desk.company, desk.domain
    ))?;
    print_data(&format!("remora setup {scheme}://{at}#{key}"))
}

#[derive(Deserialize)]
struct HandedIn {
    request: String,
    #[serde(flatten)]
    shown: Shown,
    /// Of the same person, where the desk wants to know more of them.
    access_token: Option<Secret>,
}

/// Who signs in there.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Shown {
    IdToken(Secret),
    DeviceCode(Secret),
}

impl Office {
    /// With somebody to whom the certificate with that key was shown, if any was.
    async fn connection<S: AsyncRead + AsyncWrite + Unpin>(
        self: Arc<Self>,
        stream: S,
        tls: Option<TlsPin>,
    ) {
        let service = service_fn(|request| {
            let office = Arc::clone(&self);
            async move { Ok::<_, std::convert::Infallible>(office.answer(request, tls).await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .keep_alive(false)
            .serve_connection(TokioIo::new(stream), service);
        if let Err(error) = connection.await {
            tracing::debug!(%error, "somebody at the desk");
        }
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
        tls: Option<TlsPin>,
    ) -> Response<Full<Bytes>> {
        let answered = match (request.method(), request.uri().path()) {
            (&Method::GET, WELL_KNOWN) => self.well_known(tls).await,
            (&Method::POST, CREDENTIAL) => self.credential(request).await,
            (_, WELL_KNOWN | CREDENTIAL) => Err(Refusal::Method),
            _ => Err(Refusal::Nothing),
        };
        answered.unwrap_or_else(|refusal| {
            let body = json!({"code": refusal.name(), "text": refusal.to_string()});
            if !refusal.is_routine() {
                let mut event = body.clone();
                event["event"] = "refused".into();
                tell(self.json, event);
            }
            response(refusal.status(), JSON, body.to_string())
        })
    }

    /// Signed anew each time, with the issuer's key as it is now; the file stays locked for as long as that takes.
    async fn well_known(&self, tls: Option<TlsPin>) -> Result<Response<Full<Bytes>>, Refusal> {
        let now = unix_s();
        let desk = Desk {
            issued: now,
            expires: now + DAY_S,
            tls,
            ..self.desk.clone()
        };
        let signer = Arc::clone(&self.signer);
        let signed: Signed<Desk> = spawn_blocking(move || signer.desk(desk))
            .await
            .map_err(|error| Refusal::Desk(error.to_string()))??;
        let body = json!({"v": 1, "desk": BASE64URL_NOPAD.encode(signed.bytes())});
        Ok(response(StatusCode::OK, JSON, body.to_string()))
    }

    async fn credential(
        &self,
        request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, Refusal> {
        let body = Limited::new(request.into_body(), MAX_BODY_BYTES).collect();
        let body = body.await.map_err(|_| Refusal::Malformed)?.to_bytes();
        let handed: HandedIn = serde_json::from_slice(&body).map_err(|_| Refusal::Malformed)?;
        let line: Line = handed.request.parse().map_err(|_| Refusal::Malformed)?;
        let (token, refresh_token) = self.token(handed, &line).await?;
        let signer = Arc::clone(&self.signer);
        let signed = spawn_blocking(move || signer.sign(&token, &line));
        let signed = signed
            .await
            .map_err(|error| Refusal::Desk(error.to_string()))??;
        tell(
            self.json,
            json!({"event": "signed", "subject": signed.subject, "node": signed.node, "serial": signed.serial,
            "expires_unix_s": signed.expires}),
        );
        if let Some(policy) = signed.listed {
            tell(
                self.json,
                json!({"event": "policy", "policy": policy.header.number}),
            );
            // Of two at once the later one is brought, and holds what the earlier one does.
            self.policy.send_replace(Some(policy));
        }
        let body = json!({"papers": BASE64URL_NOPAD.encode(&signed.membership), "refresh_token": refresh_token});
        Ok(response(StatusCode::OK, JSON, body.to_string()))
    }

    /// A token that is believed; and what the provider gave with it, which is the computer's.
    async fn token(
        &self,
        handed: HandedIn,
        line: &Line,
    ) -> Result<(Token, Option<Secret>), Refusal> {
        let nonce = nonce(self.desk.issuer, line.node);
        let (token, access, refresh) = match handed.shown {
            Shown::IdToken(token) => {
                let token = self.verifier.verify(&token, &nonce, unix_s()).await?;
                (token, handed.access_token, None)
            }
            Shown::DeviceCode(code) => {
                let grant = self.verifier.exchange(&code).await?;
                let token = self.verifier.verify(&grant.id_token, &nonce, unix_s());
                // It comes from the provider itself, for a code that nobody else has.
                let token = Token {
                    is_bound: true,
                    ..token.await?
                };
                (token, grant.access_token, grant.refresh_token)
            }
        };
        match access.filter(|_| self.desk.userinfo) {
            Some(access) => Ok((self.verifier.complete(token, &access).await?, refresh)),
            None => Ok((token, refresh)),
        }
    }
}

/// Who keeps no log reads none; what is done is done.
fn tell(json: bool, mut event: Value) {
    event["v"] = 1.into();
    let told = match json {
        true => print_data(&event.to_string()),
        false => print_note(&line(&event)),
    };
    if let Err(failure) = told {
        tracing::debug!(%failure, "the log");
    }
}

fn line(event: &Value) -> String {
    let text = |name: &str| event[name].as_str().unwrap_or_default();
    match event["event"].as_str() {
        Some("signed") => format!("signed for {} at {}", text("subject"), text("node")),
        Some("policy") => format!("policy {}, signed anew", event["policy"]),
        _ => format!("refused: {}: {}", text("code"), text("text")),
    }
}

fn response(
    status: StatusCode,
    kind: &'static str,
    body: impl Into<Bytes>,
) -> Response<Full<Bytes>> {
    Response::builder()
        .status(status)
        .header(CONTENT_TYPE, kind)
        .header(CACHE_CONTROL, "no-store")
        .body(Full::new(body.into()))
        .expect("headers of ours are valid")
}
