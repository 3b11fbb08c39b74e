//! One registry as we talk to it: where it is, and tokens for its repositories.
//!
//! The token exchange is our own and not oci-client's, for three reasons: oci-client takes a
//! failed exchange for anonymous access and hides why, it knows no identity tokens, and it
//! asks for one repository only, so that a cross-repository mount is refused. What it gets
//! from us is a finished token. The protocol is described at
//! <https://distribution.github.io/distribution/spec/auth/>.

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use oci_client::client::{Certificate, CertificateEncoding, ClientProtocol};
use oci_client::secrets::RegistryAuth;
use reqwest::header::{HeaderMap, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use reqwest::{Response, StatusCode, Url};
use serde::Deserialize;
use tokio::sync::Mutex;

use crate::client::ClientConfig;
use crate::credentials::Credential;
use crate::error::{Problem, chain};

/// More than any token server has to say.
const MAX_TOKEN_ANSWER: u64 = 1 << 20;
/// How much of an error answer is read.
const MAX_ERROR_ANSWER: u64 = 64 << 10;
/// The lifetime of a token that comes without one, and the shortest one allowed, from the
/// token specification.
const MIN_LIFETIME: u64 = 60;
/// The longest time that a token is kept.
const MAX_LIFETIME: u64 = 24 * 60 * 60;
/// Redirects that a manifest request follows.
const MAX_REDIRECTS: usize = 5;

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

/// One registry.
pub(crate) struct Host {
    /// The registry's name in references.
    registry: String,
    /// Where its API is.
    pub address: String,
    plain_http: bool,
    config: Arc<ClientConfig>,
    /// For requests that oci-client does not make for us.
    http: reqwest::Client,
    /// For token servers: they get secrets, and have no reason to send us elsewhere.
    token_http: reqwest::Client,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    challenge: Option<Challenge>,
    sessions: HashMap<Scope, Arc<Session>>,
}

/// Permission to do what a scope says, for a while.
pub(crate) struct Session {
    pub oci: oci_client::Client,
    pub http: reqwest::Client,
    /// The value of the `Authorization` header.
    pub authorization: Option<HeaderValue>,
    expires: Option<Instant>,
}

/// How a registry wants to be told who we are.
#[derive(Clone)]
enum Challenge {
    None,
    Basic,
    Bearer { realm: Url, service: Option<String> },
}

/// What goes into a session.
enum Grant {
    Nothing,
    Basic { username: String, password: String },
    Bearer { token: String, expires: Option<Instant> },
}

impl Host {
    pub(crate) fn new(registry: &str, config: Arc<ClientConfig>) -> Result<Self, Problem> {
        let address = match registry {
            "docker.io" => "registry-1.docker.io",
            other => other,
        };
        let plain_http = is_loopback(registry) || config.plain_http.iter().any(|h| h == registry);
        let client = |redirects| -> Result<reqwest::Client, Problem> {
            let mut builder = reqwest::Client::builder()
                .user_agent(config.user_agent)
                .connect_timeout(config.connect_timeout)
                .read_timeout(config.read_timeout)
                .danger_accept_invalid_certs(accepts_any_certificate(&config, registry))
                .redirect(redirects);
            if is_loopback(registry) {
                builder = builder.no_proxy();
            }
            for pem in &config.extra_root_certificates {
                let certificate = reqwest::Certificate::from_pem(pem)
                    .map_err(|e| Problem::Invalid(format!("root certificate: {}", chain(&e))))?;
                builder = builder.tls_certs_merge([certificate]);
            }
            Ok(builder.build()?)
        };
        Ok(Self {
            http: client(careful_redirects())?,
            token_http: client(reqwest::redirect::Policy::none())?,
            registry: registry.into(),
            address: address.into(),
            plain_http,
            config,
            state: Mutex::default(),
        })
    }

    /// The URL of something under `/v2/`.
    pub(crate) fn url(&self, path: &str) -> Result<Url, Problem> {
        let scheme = if self.plain_http { "http" } else { "https" };
        Url::parse(&format!("{scheme}://{}/v2/{path}", self.address))
            .map_err(|error| Problem::Invalid(format!("registry address: {error}")))
    }

    /// The session for a scope, and whether it has been used before.
    pub(crate) async fn session(&self, scope: &Scope) -> Result<(Arc<Session>, bool), Problem> {
        let mut state = self.state.lock().await;
        if let Some(session) = state.sessions.get(scope)
            && session.expires.is_none_or(|expires| Instant::now() < expires)
        {
            return Ok((session.clone(), true));
        }
        let challenge = match &state.challenge {
            Some(challenge) => challenge.clone(),
            None => state.challenge.insert(self.ask_challenge().await?).clone(),
        };
        let grant = self.authorize(&challenge, scope).await?;
        let session = Arc::new(self.open_session(scope, grant).await?);
        state.sessions.insert(scope.clone(), session.clone());
        Ok((session, false))
    }

    /// Forgets a session that the registry no longer accepts.
    pub(crate) async fn forget(&self, scope: &Scope) {
        let mut state = self.state.lock().await;
        state.sessions.remove(scope);
        state.challenge = None;
    }

    async fn ask_challenge(&self) -> Result<Challenge, Problem> {
        let response = self.http.get(self.url("")?).send().await?;
        match response.status() {
            StatusCode::UNAUTHORIZED => self.read_challenge(response.headers()),
            status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                Err(error_of(response).await)
            }
            _ => Ok(Challenge::None),
        }
    }

    fn read_challenge(&self, headers: &HeaderMap) -> Result<Challenge, Problem> {
        let mut basic = false;
        for header in headers.get_all(WWW_AUTHENTICATE) {
            let Ok(text) = header.to_str() else { continue };
            for challenge in http_auth::parser::ChallengeParser::new(text).map_while(Result::ok) {
                basic |= challenge.scheme.eq_ignore_ascii_case("basic");
                if !challenge.scheme.eq_ignore_ascii_case("bearer") {
                    continue;
                }
                let param = |name: &str| {
                    let found = challenge.params.iter().find(|(k, _)| k.eq_ignore_ascii_case(name));
                    found.map(|(_, value)| value.to_unescaped())
                };
                let realm = param("realm").and_then(|realm| Url::parse(&realm).ok());
                let realm = realm
                    .ok_or_else(|| Problem::Invalid("bearer challenge without a realm".into()))?;
                if realm.scheme() != "https" && !(self.plain_http && realm.scheme() == "http") {
                    return Err(Problem::Invalid(
                        "the registry uses https, its token server does not".into(),
                    ));
                }
                return Ok(Challenge::Bearer { realm, service: param("service") });
            }
        }
        Ok(if basic { Challenge::Basic } else { Challenge::None })
    }

    async fn authorize(&self, challenge: &Challenge, scope: &Scope) -> Result<Grant, Problem> {
        if matches!(challenge, Challenge::None) {
            return Ok(Grant::Nothing);
        }
        let credential = self.config.credentials.credential(&self.registry).await;
        let credential = credential.map_err(|error| Problem::Credentials(error.0))?;
        match (challenge, credential) {
            (_, Some(Credential::RegistryToken(token))) => {
                Ok(Grant::Bearer { token: token.expose().into(), expires: None })
            }
            (Challenge::Bearer { realm, service }, credential) => {
                self.fetch_token(realm.clone(), service.as_deref(), scope, credential).await
            }
            (Challenge::Basic, Some(Credential::Basic { username, password })) => {
                Ok(Grant::Basic { username, password: password.expose().into() })
            }
            (Challenge::Basic, Some(Credential::IdentityToken(_))) => Err(Problem::Credentials(
                "there is an identity token, but the registry wants a user name and password"
                    .into(),
            )),
            (Challenge::None, _) | (Challenge::Basic, None) => Ok(Grant::Nothing),
        }
    }

    async fn fetch_token(
        &self,
        mut realm: Url,
        service: Option<&str>,
        scope: &Scope,
        credential: Option<Credential>,
    ) -> Result<Grant, Problem> {
        let request = match credential {
            Some(Credential::IdentityToken(token)) => {
                let scopes = scope.names().join(" ");
                self.token_http.post(realm).form(&[
                    ("grant_type", "refresh_token"),
                    ("client_id", "cofferdam"),
                    ("service", service.unwrap_or_default()),
                    ("scope", &scopes),
                    ("refresh_token", token.expose()),
                ])
            }
            other => {
                {
                    let mut query = realm.query_pairs_mut();
                    query.extend_pairs(service.map(|service| ("service", service)));
                    query.extend_pairs(scope.names().iter().map(|name| ("scope", name)));
                }
                let request = self.token_http.get(realm);
                match other {
                    Some(Credential::Basic { username, password }) => {
                        request.basic_auth(username, Some(password.expose()))
                    }
                    _ => request,
                }
            }
        };
        #[derive(Deserialize)]
        struct Answer {
            #[serde(default)]
            token: String,
            #[serde(default)]
            access_token: String,
            expires_in: Option<u64>,
        }
        let response = request.send().await?;
        if !response.status().is_success() {
            return Err(match error_of(response).await {
                // Token servers also answer 400 to a wrong refresh token.
                Problem::NotFound => Problem::Unauthorized("no token".into()),
                Problem::Status { code: 400, message, .. } => Problem::Unauthorized(message),
                other => other,
            });
        }
        let body = read_limited(response, MAX_TOKEN_ANSWER).await?;
        // Neither the parser's message nor the answer may be shown: it may hold a token.
        let answer: Answer = serde_json::from_slice(&body)
            .map_err(|_| Problem::Invalid("the token server's answer is not a token".into()))?;
        let token = if answer.token.is_empty() { answer.access_token } else { answer.token };
        if token.is_empty() {
            return Err(Problem::Invalid("the token server's answer has no token".into()));
        }
        let lifetime = answer.expires_in.unwrap_or(MIN_LIFETIME).clamp(MIN_LIFETIME, MAX_LIFETIME);
        // Renewed early, so that a request does not start with a token about to expire.
        let expires = Instant::now() + Duration::from_secs(lifetime * 4 / 5);
        Ok(Grant::Bearer { token, expires: Some(expires) })
    }

    /// Makes an oci-client that holds the grant. It keeps secrets for good and renews tokens
    /// in its own way, so each session has one of its own, which holds nothing to renew.
    async fn open_session(&self, scope: &Scope, grant: Grant) -> Result<Session, Problem> {
        use oci_client::{RegistryOperation, token_cache::RegistryTokenType};

        let oci = oci_client::Client::try_from(self.oci_config())?;
        let image = self.oci_reference(&scope.repository);
        let (header, expires) = match grant {
            Grant::Nothing => (None, None),
            Grant::Bearer { token, expires } => {
                let header = HeaderValue::from_str(&format!("Bearer {token}"))
                    .map_err(|_| Problem::Invalid("the token has control characters".into()))?;
                oci.store_auth_if_needed(&self.address, &RegistryAuth::Bearer(token)).await;
                (Some(header), expires)
            }
            Grant::Basic { username, password } => {
                let pair = STANDARD.encode(format!("{username}:{password}"));
                let header = HeaderValue::from_str(&format!("Basic {pair}"))
                    .expect("base64 is valid in a header");
                for operation in [RegistryOperation::Pull, RegistryOperation::Push] {
                    let token = RegistryTokenType::Basic(username.clone(), password.clone());
                    oci.tokens.insert(&image, operation, token).await;
                }
                let auth = RegistryAuth::Basic(username, password);
                oci.store_auth_if_needed(&self.address, &auth).await;
                (Some(header), None)
            }
        };
        let authorization = header.map(|mut header| {
            header.set_sensitive(true);
            header
        });
        Ok(Session { oci, http: self.http.clone(), authorization, expires })
    }

    /// The repository as oci-client names it; the tag is never used.
    pub(crate) fn oci_reference(&self, repository: &str) -> oci_client::Reference {
        oci_client::Reference::with_tag(self.address.clone(), repository.into(), "latest".into())
    }

    fn oci_config(&self) -> oci_client::client::ClientConfig {
        let config = &self.config;
        // Without a proxy of its own, the HTTP client takes one from the environment. That is
        // wrong for this machine itself; this entry excludes every host and is never used.
        let direct = is_loopback(&self.registry).then(|| "http://127.0.0.1:1".to_owned());
        let certificates = config
            .extra_root_certificates
            .iter()
            .map(|pem| Certificate { encoding: CertificateEncoding::Pem, data: pem.clone() });
        oci_client::client::ClientConfig {
            protocol: if self.plain_http { ClientProtocol::Http } else { ClientProtocol::Https },
            accept_invalid_certificates: accepts_any_certificate(config, &self.registry),
            extra_root_certificates: certificates.collect(),
            use_monolithic_push: true,
            platform_resolver: None,
            read_timeout: Some(config.read_timeout),
            connect_timeout: Some(config.connect_timeout),
            user_agent: config.user_agent,
            no_proxy: direct.is_some().then(|| "*,localhost,127.0.0.0/8,::1".to_owned()),
            https_proxy: direct.clone(),
            http_proxy: direct,
            ..oci_client::client::ClientConfig::default()
        }
    }
}

/// Whether a registry is on this machine, so that plain HTTP is safe.
pub(crate) fn is_loopback(registry: &str) -> bool {
    let bracketed = registry.strip_prefix('[').and_then(|rest| rest.split_once(']'));
    if let Some((address, _)) = bracketed {
        return address.parse::<Ipv6Addr>().is_ok_and(|address| address.is_loopback());
    }
    let host = registry.split(':').next().unwrap_or(registry);
    host == "localhost" || host.parse::<Ipv4Addr>().is_ok_and(|address| address.is_loopback())
}

fn accepts_any_certificate(config: &ClientConfig, registry: &str) -> bool {
    config.insecure_tls.iter().any(|host| host == registry)
}

/// Follows a few redirects, but never from https to http.
fn careful_redirects() -> reqwest::redirect::Policy {
    reqwest::redirect::Policy::custom(|attempt| {
        let from_https = attempt.previous().last().is_some_and(|url| url.scheme() == "https");
        if attempt.previous().len() > MAX_REDIRECTS {
            attempt.error("too many redirects")
        } else if from_https && attempt.url().scheme() != "https" {
            attempt.error("redirected from https to http")
        } else {
            attempt.follow()
        }
    })
}

/// Reads a whole answer of at most `limit` bytes.
pub(crate) async fn read_limited(mut response: Response, limit: u64) -> Result<Bytes, Problem> {
    let too_large = |size: u64| size > limit;
    if response.content_length().is_some_and(too_large) {
        return Err(Problem::TooLarge { limit });
    }
    let mut body = BytesMut::new();
    while let Some(chunk) = response.chunk().await? {
        if too_large((body.len() + chunk.len()) as u64) {
            return Err(Problem::TooLarge { limit });
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

/// The problem that an answer with an error status stands for.
pub(crate) async fn error_of(response: Response) -> Problem {
    let code = response.status().as_u16();
    // The header can also hold a date, which no registry is known to use.
    let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
    let retry_after = retry_after.and_then(|text| text.trim().parse().ok());
    // The status is worth more than the reason why its text could not be read.
    let body = read_limited(response, MAX_ERROR_ANSWER).await.unwrap_or_default();
    let retry_after = retry_after.map(Duration::from_secs);
    Problem::from_status(code, &String::from_utf8_lossy(&body), retry_after)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_loopback() {
        for host in ["localhost", "localhost:5000", "127.0.0.1:1", "127.9.9.9", "[::1]", "[::1]:5"]
        {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["docker.io", "localhost.x", "127.0.0.1.x:1", "10.0.0.1", "[::2]:5", "0.0.0.0"]
        {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
