//! Sources that are fetched with git or by HTTP: what the op's attributes mean, and which of the
//! client's secrets the servers get to see.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cofferdam_llb::SourceOp;
use cofferdam_registry::WebRequest;
use cofferdam_session::{Secret, Session};
use cofferdam_source::{FileOptions, GitAccess, GitRequest, GitTree, HttpFile, Remote};
use cofferdam_store::Snapshot;

use crate::Error;
use crate::agent::{Access, AgentSocket};
use crate::graph::BuildContext;
use crate::mounts::agent_socket;
use crate::vertex::blocking;

/// The host that stands for the client itself, as in BuildKit.
const CLIENT: &str = "http://buildkit-session/";
/// Headers that an op may set.
const HEADERS: [&str; 2] = ["accept", "user-agent"];

/// Reads `http://…` or `https://…` with its attributes.
pub(crate) async fn resolve_http(context: &BuildContext, op: &SourceOp) -> Result<HttpFile, Error> {
    let url = op.identifier.as_str();
    let shown = || cofferdam_registry::without_secrets(url);
    let invalid = |key: &str, expected: &str| {
        let value = op.attrs.get(key).map(|value| value.escape_debug().to_string());
        let value = value.unwrap_or_default();
        Error::Invalid(format!("source `{}`: `{key}` is `{value}`, expected {expected}", shown()))
    };
    let number = |key: &str, radix: u32| match op.attrs.get(key).filter(|text| !text.is_empty()) {
        None => Ok(None),
        Some(text) => match u32::from_str_radix(text, radix) {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(invalid(key, if radix == 8 { "octal digits" } else { "a number" })),
        },
    };
    if op.attrs.keys().any(|key| key.starts_with("http.sig.")) {
        let what = format!("checking the signature of the source `{}`", shown());
        return Err(Error::Unsupported(what));
    }
    let checksum = match op.attrs.get("http.checksum").filter(|text| !text.is_empty()) {
        None => None,
        Some(text) => Some(
            text.parse().map_err(|_| invalid("http.checksum", "`sha256:` and 64 hex digits"))?,
        ),
    };
    let options = FileOptions {
        name: op.attrs.get("http.filename").filter(|name| !name.is_empty()).cloned(),
        mode: number("http.perm", 8)?,
        uid: number("http.uid", 10)?.unwrap_or(0),
        gid: number("http.gid", 10)?.unwrap_or(0),
        checksum,
    };
    let source = &context.engine.files;
    if let Some(id) = url.strip_prefix(CLIENT) {
        let file = context.session.upload(id)?;
        let (source, url) = (source.clone(), url.to_owned());
        return blocking(move || Ok(source.sent(file, &url, options)?)).await;
    }
    let mut request = WebRequest { url: url.to_owned(), ..WebRequest::default() };
    for (key, value) in &op.attrs {
        if let Some(name) = key.strip_prefix("http.header.") {
            let name = name.to_ascii_lowercase();
            if !HEADERS.contains(&name.as_str()) {
                return Err(Error::Invalid(format!(
                    "source `{}`: the header `{name}` cannot be set, expected one of: {}",
                    shown(),
                    HEADERS.join(", ")
                )));
            }
            request.headers.push((name, value.clone()));
        }
    }
    request.authorization = http_authorization(&*context.session, op)?;
    Ok(source.resolve(request, options).await?)
}

/// The header for a download, from the secrets that BuildKit looks for.
fn http_authorization(session: &dyn Session, op: &SourceOp) -> Result<Option<String>, Error> {
    let host = op.identifier.split_once("://").map_or("", |(_, rest)| rest);
    let host = host.split(['/', '?', '#']).next().unwrap_or_default();
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    let named = op.attrs.get("http.authheadersecret").filter(|id| !id.is_empty());
    if let Some(id) = named {
        let Some(secret) = session.secret(id)? else {
            let place = cofferdam_registry::without_secrets(&op.identifier);
            return Err(Error::NoSecret { id: id.clone(), place: format!("`{place}`") });
        };
        return header(id, &secret).map(Some);
    }
    let id = format!("HTTP_AUTH_HEADER_{host}");
    if let Some(secret) = session.secret(&id)? {
        return header(&id, &secret).map(Some);
    }
    let id = format!("HTTP_AUTH_TOKEN_{host}");
    match session.secret(&id)? {
        Some(secret) => Ok(Some(format!("Bearer {}", header(&id, &secret)?))),
        None => Ok(None),
    }
}

/// A secret as part of a header: without the line end that files have.
fn header(id: &str, secret: &Secret) -> Result<String, Error> {
    let text = std::str::from_utf8(secret.reveal()).ok().map(str::trim);
    let text = text.filter(|text| !text.is_empty() && !text.chars().any(char::is_control));
    let text = text.ok_or_else(|| Error::Invalid(format!("secret `{id}`: it is no line of text")));
    text.map(str::to_owned)
}

/// Who the client is to git servers.
struct Identities {
    session: Arc<dyn Session>,
    header: Option<String>,
    token: Option<String>,
}

impl GitAccess for Identities {
    fn authorization(&self, host: &str, first: bool) -> Result<Option<String>, String> {
        let find = |name: &Option<String>| -> Result<Option<String>, Error> {
            let Some(name) = name.as_deref().filter(|name| !name.is_empty()) else {
                return Ok(None);
            };
            let mut names = vec![format!("{name}.{host}")];
            // What is meant for one host is not shown to those of its submodules.
            names.extend(first.then(|| name.to_owned()));
            for id in names {
                if let Some(secret) = self.session.secret(&id)? {
                    return header(&id, &secret).map(Some);
                }
            }
            Ok(None)
        };
        let found = || -> Result<Option<String>, Error> {
            if let Some(header) = find(&self.header)? {
                return Ok(Some(header));
            }
            let basic = |token| STANDARD.encode(format!("x-access-token:{token}"));
            Ok(find(&self.token)?.map(|token| format!("Basic {}", basic(token))))
        };
        found().map_err(|error| error.to_string())
    }
}

/// A git source that was resolved, and what its fetching needs.
pub(crate) struct ResolvedGit {
    pub(crate) tree: GitTree,
    access: Identities,
    /// The client's agent, for as long as it may be asked.
    _agent: Option<AgentSocket>,
}

/// Reads `git://HOST/PATH[#REFERENCE[:DIRECTORY]]` with its attributes, and asks the server.
pub(crate) async fn resolve_git(
    context: &BuildContext,
    op: &SourceOp,
) -> Result<ResolvedGit, Error> {
    let rest = op.identifier.strip_prefix("git://").unwrap_or(&op.identifier);
    let (place, fragment) = rest.split_once('#').unwrap_or((rest, ""));
    let (reference, subdirectory) = fragment.split_once(':').unwrap_or((fragment, ""));
    let attribute = |key: &str| op.attrs.get(key).filter(|text| !text.is_empty()).cloned();
    let flag = |key: &str| match op.attrs.get(key).map(String::as_str) {
        None | Some("" | "false") => Ok(false),
        Some("true") => Ok(true),
        Some(other) => Err(Error::Invalid(format!(
            "source `git://{place}`: `{key}` is `{}`, expected `true` or `false`",
            other.escape_debug()
        ))),
    };
    for key in op.attrs.keys() {
        if key.starts_with("git.sig.") || key == "git.bundle" || key == "git.checkoutbundle" {
            return Err(Error::Unsupported(format!("`{key}` of the source `git://{place}`")));
        }
    }
    let remote = match attribute("git.fullurl") {
        Some(url) => Remote::parse(&url)?,
        None => Remote::parse(&format!("https://{place}"))?,
    };
    let mut agent = None;
    if let Some(id) = attribute("git.mountsshsock")
        && let Some(socket) = context.session.agent(&id)
    {
        let parent: &Path = context.engine.store.tmp_dir();
        // The git program is this process's user's.
        let access = match std::fs::metadata(parent) {
            Ok(own) => Access { uid: own.uid(), gid: own.gid(), mode: 0o600 },
            Err(_) => Access { uid: 0, gid: 0, mode: 0o600 },
        };
        agent = Some(agent_socket(parent, &id, &socket, access).await?);
    }
    let access = Identities {
        session: context.session.clone(),
        header: attribute("git.authheadersecret"),
        token: attribute("git.authtokensecret"),
    };
    let request = GitRequest {
        remote,
        reference: reference.to_owned(),
        subdirectory: subdirectory.to_owned(),
        keep_git_dir: flag("git.keepgitdir")?,
        submodules: !flag("git.skipsubmodules")?,
        checksum: attribute("git.checksum"),
        agent: agent.as_ref().map(AgentSocket::path),
        known_hosts: attribute("git.knownsshhosts"),
    };
    let tree = context.engine.repositories.resolve(request, &access).await?;
    Ok(ResolvedGit { tree, access, _agent: agent })
}

/// Brings the files of a git source into the store.
pub(crate) async fn fetch_git(
    context: &BuildContext,
    source: &ResolvedGit,
) -> Result<Snapshot, Error> {
    Ok(context.engine.repositories.fetch(&source.tree, &source.access).await?)
}
