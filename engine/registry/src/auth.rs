//! Being let in: how a registry wants to be told who we are, and tokens for its repositories.
//!
//! Nobody is asked in advance: the first request goes out without a token, and the refusal tells
//! what is wanted. The protocol is described at
//! <https://distribution.github.io/distribution/spec/auth/>.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use reqwest::{Method, Url};
use serde::Deserialize;
use tokio::sync::Mutex;

use crate::credentials::{Credential, Credentials};
use crate::error::Problem;
use crate::transport::{Call, Transport, error_of, read_limited};

/// More than any token server has to say.
const MAX_TOKEN_ANSWER: u64 = 1 << 20;
/// The lifetime of a token that comes without one, and the shortest one allowed, from the
/// token specification.
const MIN_LIFETIME: u64 = 60;
/// The longest time that a token is kept.
const MAX_LIFETIME: u64 = 24 * 60 * 60;

/// What is to be done in a repository.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Scope {
    pub repository: String,
    pub push: bool,
    /// Another repository of the registry, to be read as the source of a mount.
    pub mount_from: Option<String>,
}

impl Scope {
    fn names(&self) -> Vec<String> {
        let actions = if self.push { "pull,push" } else { "pull" };
        let own = format!("repository:{}:{actions}", self.repository);
        let other = self.mount_from.iter().map(|from| format!("repository:{from}:pull"));
        std::iter::once(own).chain(other).collect()
    }
}

/// What lets us into one registry.
pub(crate) struct Auth {
    /// The registry's name in references, under which its credentials are kept.
    registry: String,
    credentials: Arc<dyn Credentials>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What the registry asked for; nothing before it did.
    challenge: Option<Challenge>,
    sessions: HashMap<Scope, Arc<Session>>,
}

/// Permission to do what a scope says, for a while.
#[derive(Default)]
pub(crate) struct Session {
    /// The value of the `Authorization` header.
    pub authorization: Option<HeaderValue>,
    expires: Option<Instant>,
}

/// What a registry that refused us wants to see.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wish {
    /// It did not say.
    Nothing,
    /// A password, which is the same every time.
    Password,
    /// A token, of which there are always new ones.
    Token,
}

/// How a registry wants to be told who we are.
#[derive(Clone)]
enum Challenge {
    Basic,
    Bearer { realm: Url, service: Option<String> },
}

impl Auth {
    pub(crate) fn new(registry: &str, credentials: Arc<dyn Credentials>) -> Self {
        Self { registry: registry.into(), credentials, state: Mutex::default() }
    }

    /// The session for a scope.
    pub(crate) async fn session(
        &self,
        scope: &Scope,
        transport: &Transport,
        patience: Duration,
    ) -> Result<Arc<Session>, Problem> {
        let mut state = self.state.lock().await;
        if let Some(session) = state.sessions.get(scope)
            && session.expires.is_none_or(|expires| Instant::now() < expires)
        {
            return Ok(session.clone());
        }
        let session = match &state.challenge {
            None => Session::default(),
            Some(challenge) => self.authorize(challenge, scope, transport, patience).await?,
        };
        let session = Arc::new(session);
        state.sessions.insert(scope.clone(), session.clone());
        Ok(session)
    }

    /// Takes in that the registry refused a session, and gives what it wants instead.
    pub(crate) async fn refused(
        &self,
        scope: &Scope,
        session: &Arc<Session>,
        headers: &HeaderMap,
        https: bool,
    ) -> Result<Wish, Problem> {
        let mut state = self.state.lock().await;
        if state.sessions.get(scope).is_some_and(|known| Arc::ptr_eq(known, session)) {
            state.sessions.remove(scope);
        }
        if let Some(challenge) = read_challenge(headers, https)? {
            state.challenge = Some(challenge);
            state.sessions.retain(|_, session| session.authorization.is_some());
        }
        Ok(match state.challenge {
            None => Wish::Nothing,
            Some(Challenge::Basic) => Wish::Password,
            Some(Challenge::Bearer { .. }) => Wish::Token,
        })
    }

    async fn authorize(
        &self,
        challenge: &Challenge,
        scope: &Scope,
        transport: &Transport,
        patience: Duration,
    ) -> Result<Session, Problem> {
        let credential = self.credentials.credential(&self.registry).await;
        let credential = credential.map_err(|error| Problem::Credentials(error.0))?;
        match (challenge, credential) {
            (_, Some(Credential::RegistryToken(token))) => bearer(token.expose(), None),
            (Challenge::Bearer { realm, service }, credential) => {
                let call = token_request(realm.clone(), service.as_deref(), scope, credential);
                fetch_token(call, transport, patience).await
            }
            (Challenge::Basic, Some(Credential::Basic { username, password })) => {
                let authorization = Some(basic(&username, password.expose()));
                Ok(Session { authorization, expires: None })
            }
            (Challenge::Basic, Some(Credential::IdentityToken(_))) => Err(Problem::Credentials(
                "there is an identity token, but the registry wants a user name and password"
                    .into(),
            )),
            (Challenge::Basic, None) => Ok(Session::default()),
        }
    }
}

fn read_challenge(headers: &HeaderMap, https: bool) -> Result<Option<Challenge>, Problem> {
    let mut basic = None;
    for header in headers.get_all(WWW_AUTHENTICATE) {
        let Ok(text) = header.to_str() else { continue };
        for challenge in http_auth::parser::ChallengeParser::new(text).map_while(Result::ok) {
            if challenge.scheme.eq_ignore_ascii_case("basic") {
                basic = Some(Challenge::Basic);
            }
            if !challenge.scheme.eq_ignore_ascii_case("bearer") {
                continue;
            }
            let param = |name: &str| {
                let found = challenge.params.iter().find(|(k, _)| k.eq_ignore_ascii_case(name));
                found.map(|(_, value)| value.to_unescaped())
            };
            let realm = param("realm").and_then(|realm| Url::parse(&realm).ok());
            let realm =
                realm.ok_or_else(|| Problem::Invalid("bearer challenge without a realm".into()))?;
            if realm.scheme() != "https" && (https || realm.scheme() != "http") {
                return Err(Problem::Invalid(
                    "the registry uses https, its token server does not".into(),
                ));
            }
            return Ok(Some(Challenge::Bearer { realm, service: param("service") }));
        }
    }
    Ok(basic)
}

fn token_request(
    mut realm: Url,
    service: Option<&str>,
    scope: &Scope,
    credential: Option<Credential>,
) -> Call {
    let mut headers = HeaderMap::new();
    if let Some(Credential::IdentityToken(token)) = credential {
        // The form's own type, encoded as a query is.
        let mut form = Url::parse("form:").expect("a valid URL");
        form.query_pairs_mut().extend_pairs([
            ("grant_type", "refresh_token"),
            ("client_id", "cofferdam"),
            ("service", service.unwrap_or_default()),
            ("scope", &scope.names().join(" ")),
            ("refresh_token", token.expose()),
        ]);
        let body = Bytes::from(form.query().unwrap_or_default().to_owned());
        let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
        headers.insert(CONTENT_TYPE, kind);
        return Call { method: Method::POST, url: realm, headers, body };
    }
    {
        let mut query = realm.query_pairs_mut();
        query.extend_pairs(service.map(|service| ("service", service)));
        query.extend_pairs(scope.names().iter().map(|name| ("scope", name)));
    }
    if let Some(Credential::Basic { username, password }) = credential {
        headers.insert(AUTHORIZATION, basic(&username, password.expose()));
    }
    Call { method: Method::GET, url: realm, headers, body: Bytes::new() }
}

async fn fetch_token(
    call: Call,
    transport: &Transport,
    patience: Duration,
) -> Result<Session, Problem> {
    #[derive(Deserialize)]
    struct Answer {
        #[serde(default)]
        token: String,
        #[serde(default)]
        access_token: String,
        expires_in: Option<u64>,
    }
    let of_server = |problem| Problem::Token(Box::new(problem));
    // Token servers get secrets, and have no reason to send us elsewhere.
    let response = transport.send_there_only(&call, patience).await.map_err(of_server)?;
    if !response.status().is_success() {
        return Err(of_server(match error_of(response, patience).await {
            // Token servers also answer 400 to a wrong refresh token.
            Problem::NotFound => Problem::Unauthorized("no token".into()),
            Problem::Status { code: 400, message, .. } => Problem::Unauthorized(message),
            other => other,
        }));
    }
    let body = read_limited(response, MAX_TOKEN_ANSWER, patience).await.map_err(of_server)?;
    // Neither the parser's message nor the answer may be shown: it may hold a token.
    let answer: Answer = serde_json::from_slice(&body)
        .map_err(|_| of_server(Problem::Invalid("its answer is not a token".into())))?;
    let token = if answer.token.is_empty() { answer.access_token } else { answer.token };
    if token.is_empty() {
        return Err(of_server(Problem::Invalid("its answer has no token".into())));
    }
    let lifetime = answer.expires_in.unwrap_or(MIN_LIFETIME).clamp(MIN_LIFETIME, MAX_LIFETIME);
    // Renewed early, so that a request does not start with a token about to expire.
    bearer(&token, Some(Instant::now() + Duration::from_secs(lifetime * 4 / 5)))
}

fn bearer(token: &str, expires: Option<Instant>) -> Result<Session, Problem> {
    let mut header = HeaderValue::from_str(&format!("Bearer {token}"))
        .map_err(|_| Problem::Invalid("the token has control characters".into()))?;
    header.set_sensitive(true);
    Ok(Session { authorization: Some(header), expires })
}

fn basic(username: &str, password: &str) -> HeaderValue {
    let pair = STANDARD.encode(format!("{username}:{password}"));
    let header = HeaderValue::from_str(&format!("Basic {pair}"));
    let mut header = header.expect("base64 is valid in a header");
    header.set_sensitive(true);
    header
}
