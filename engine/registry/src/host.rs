//! One registry or mirror as we talk to it: where it is, the way there, and being let in.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::HeaderMap;
use reqwest::{Method, Url};
use tokio::sync::OnceCell;

use crate::auth::Auth;
use crate::client::ClientConfig;
use crate::error::Problem;
use crate::hosts::Scheme;
use crate::transport::{Call, Pool, Transport};

/// One registry.
pub(crate) struct Host {
    /// Host and port of its API.
    address: String,
    scheme: Scheme,
    /// The URL of `/v2/`, once it is known whether there is TLS.
    base: OnceCell<Url>,
    pub transport: Transport,
    pub auth: Auth,
}

impl Host {
    pub(crate) fn new(registry: &str, config: &ClientConfig, pool: Arc<Pool>) -> Self {
        let address = match registry {
            "docker.io" => "registry-1.docker.io",
            other => other,
        };
        let settings = config.hosts.get(registry).cloned().unwrap_or_default();
        Self {
            address: address.into(),
            scheme: settings.scheme(registry),
            base: OnceCell::new(),
            transport: Transport::new(pool, settings),
            auth: Auth::new(registry, config.credentials.clone()),
        }
    }

    /// The URL of `/v2/`.
    pub(crate) async fn base(&self, patience: Duration) -> Result<&Url, Problem> {
        self.base.get_or_try_init(|| self.find_base(patience)).await
    }

    async fn find_base(&self, patience: Duration) -> Result<Url, Problem> {
        let url = |scheme: &str| {
            Url::parse(&format!("{scheme}://{}/v2/", self.address))
                .map_err(|error| Problem::Invalid(format!("registry address: {error}")))
        };
        match self.scheme {
            Scheme::Http => url("http"),
            Scheme::Https => url("https"),
            Scheme::Either => {
                let secure = url("https")?;
                let call = Call {
                    method: Method::GET,
                    url: secure.clone(),
                    headers: HeaderMap::new(),
                    body: Bytes::new(),
                };
                match self.transport.send_there_only(&call, patience).await {
                    Err(Problem::Connection(_)) => url("http"),
                    Ok(_) => Ok(secure),
                    Err(problem) => Err(problem),
                }
            }
        }
    }
}
