//! Single files from the web, or that the client sends: each becomes a layer with that one file.
//!
//! The bytes of a URL are kept as a record of the store, with what the server said of them, and
//! are only fetched again when the server says that they have changed.

use std::io::{Read, Write};
use std::path::Path;

use cofferdam_registry::{
    Client, WebAnswer, WebError, WebHead, WebRequest, WebSink, http_date, without_secrets,
};
use cofferdam_store::{
    About, Attributes, Content, Keep, Node, NodeKind, PackWriter, Record, Regular, Snapshot, Store,
};
use cofferdam_types::{Digest, Hasher};
use serde::{Deserialize, Serialize};
use tokio::runtime::{Handle, RuntimeFlavor};

use crate::error::IoContext;
use crate::{Error, Result};

/// What lists of what is stored call the kept bytes.
const KIND: &str = "source.http";
/// The name of the file in the layer that is kept.
const KEPT: &[u8] = b"file";
/// The name of a file that has none.
const NAMELESS: &str = "download";
const NANOSECONDS: i64 = 1_000_000_000;

/// What the file is to be like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileOptions {
    /// Its name; otherwise what the server or the URL says.
    pub name: Option<String>,
    /// Its permission bits; 0600 where nothing is said.
    pub mode: Option<u32>,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// The digest that its contents must have.
    pub checksum: Option<Digest>,
}

/// A file of which the contents' digest is known, and perhaps the contents.
#[derive(Debug)]
pub struct HttpFile {
    request: WebRequest,
    options: FileOptions,
    /// `None` while nothing but a promised digest is known.
    bytes: Option<Bytes>,
}

/// Bytes that are in the store.
#[derive(Debug)]
struct Bytes {
    content: Content,
    size: u64,
    about: Known,
    /// Holds them until a layer does.
    _held: Held,
}

/// What is remembered of bytes.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Known {
    digest: String,
    etag: Option<String>,
    last_modified: Option<String>,
    disposition: Option<String>,
}

/// Never read: it is there to be dropped.
#[derive(Debug)]
enum Held {
    Layer { _snapshot: Snapshot },
    Pack { _keep: Keep },
}

/// Fetches files.
#[derive(Clone, Debug)]
pub struct HttpSource {
    store: Store,
    client: Client,
}

impl HttpFile {
    /// The URL, as it can be shown.
    pub fn shown_url(&self) -> String {
        without_secrets(&self.request.url)
    }

    /// The digest of the contents.
    pub fn digest(&self) -> String {
        match (&self.options.checksum, &self.bytes) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(bytes)) => bytes.about.digest.clone(),
            (None, None) => unreachable!("without a checksum the bytes are there"),
        }
    }

    /// What a cache key depends on. Where the digest was given, nothing that a server says does.
    pub fn key(&self) -> Digest {
        let mut hasher = Hasher::new();
        hasher.field(self.digest());
        hasher.field(self.name().unwrap_or_default());
        for number in [self.mode(), self.options.uid, self.options.gid] {
            hasher.field(number.to_le_bytes());
        }
        if self.options.checksum.is_none() {
            hasher.field(self.mtime().to_le_bytes());
        }
        hasher.finish()
    }

    fn mode(&self) -> u32 {
        self.options.mode.unwrap_or(0o600) & 0o7777
    }

    /// When the server says that it was changed, in nanoseconds since 1970.
    fn mtime(&self) -> i64 {
        let text = self.bytes.as_ref().and_then(|bytes| bytes.about.last_modified.as_deref());
        let seconds = text.and_then(http_date).unwrap_or(0);
        seconds.checked_mul(NANOSECONDS).unwrap_or(0)
    }

    /// The name of the file.
    fn name(&self) -> Result<String> {
        if let Some(name) = &self.options.name {
            let wrong = matches!(name.as_str(), "" | "." | "..") || name.contains(['/', '\0']);
            return match wrong || name.len() > 255 {
                true => Err(self.wrong(format!("the file name {name:?} is none"))),
                false => Ok(name.clone()),
            };
        }
        // Only what nobody fetches for a name alone.
        let told = match self.options.checksum {
            Some(_) => None,
            None => self.bytes.as_ref().and_then(|bytes| bytes.about.disposition.as_deref()),
        };
        let of_url = || {
            let place = self.request.url.split_once("://").map_or("", |(_, rest)| rest);
            let place = place.split(['?', '#']).next().unwrap_or_default();
            base(place.split_once('/').map_or("", |(_, path)| path))
        };
        Ok(told.and_then(disposed_name).or_else(of_url).unwrap_or_else(|| NAMELESS.into()))
    }

    fn wrong(&self, reason: String) -> Error {
        Error::File { url: self.shown_url(), reason }
    }
}

impl HttpSource {
    /// Fetches into this store, with the connections of this client.
    pub fn new(store: Store, client: Client) -> Self {
        Self { store, client }
    }

    /// Finds out what a URL has now: asks the server, unless the digest is given.
    ///
    /// # Errors
    /// When the server does not give it, or there is no room.
    pub async fn resolve(&self, request: WebRequest, options: FileOptions) -> Result<HttpFile> {
        let mut file = HttpFile { request, options, bytes: None };
        if file.options.checksum.is_none() {
            file.bytes = Some(self.bytes(&file).await?);
        }
        file.name()?;
        Ok(file)
    }

    /// Takes what the client sends.
    ///
    /// # Errors
    /// When it cannot be read, or there is no room.
    pub fn sent(&self, mut from: impl Read, url: &str, options: FileOptions) -> Result<HttpFile> {
        let keep = self.store.keep();
        let mut writer = self.store.new_pack().into_stream()?;
        std::io::copy(&mut from, &mut writer).map_err(written)?;
        let request = WebRequest { url: url.to_owned(), ..WebRequest::default() };
        let bytes = Some(complete(writer, &WebHead::default(), keep));
        let file = HttpFile { request, options, bytes };
        file.name()?;
        Ok(file)
    }

    /// The file as a layer.
    ///
    /// # Errors
    /// When it is not what it should be, cannot be had, or there is no room.
    pub async fn fetch(&self, file: &HttpFile) -> Result<Snapshot> {
        let name = file.name()?;
        let fetched;
        let file = match &file.bytes {
            Some(_) => file,
            None => {
                let bytes = Some(self.bytes(file).await?);
                let (request, options) = (file.request.clone(), file.options.clone());
                fetched = HttpFile { request, options, bytes };
                &fetched
            }
        };
        let bytes = file.bytes.as_ref().expect("they were just fetched");
        let actual: Digest = bytes
            .about
            .digest
            .parse()
            .map_err(|error| file.wrong(format!("its digest: {error}")))?;
        if let Some(expected) = file.options.checksum.filter(|expected| *expected != actual) {
            return Err(file.wrong(format!("digest {expected} expected, found {actual}")));
        }
        let attributes = Attributes {
            mode: file.mode(),
            uid: file.options.uid,
            gid: file.options.gid,
            mtime: file.mtime(),
            xattrs: Vec::new(),
        };
        let root = one_file(name.as_bytes(), attributes, bytes, actual);
        let layer = self.store.commit_virtual(root)?;
        self.store.hash_layer(layer.id())?;
        Ok(Snapshot::default().with(layer))
    }

    /// The bytes of a URL as they are now.
    async fn bytes(&self, file: &HttpFile) -> Result<Bytes> {
        let identity = identity(&file.request);
        let wanted = file.options.checksum.map(|digest| digest.to_string());
        let known = match self.known(&identity)? {
            Some(known) if Some(&known.about.digest) == wanted.as_ref() => return Ok(known),
            known => known,
        };
        let mut request = file.request.clone();
        if let Some(known) = &known {
            request.etag.clone_from(&known.about.etag);
            request.last_modified.clone_from(&known.about.last_modified);
        }
        let mut sink = Sink { store: self.store.clone(), keep: None, writer: None };
        match self.client.download(&request, &mut sink).await {
            Ok(WebAnswer::Unchanged) => {
                known.ok_or_else(|| file.wrong("the server says that it has not changed".into()))
            }
            Ok(WebAnswer::Complete(head)) => {
                let (Some(keep), Some(writer)) = (sink.keep, sink.writer) else {
                    return Err(file.wrong("nothing came".into()));
                };
                let bytes = complete(writer, &head, keep);
                self.keep(&identity, file, &bytes)?;
                Ok(bytes)
            }
            Err(WebError::Web(failure)) => Err(Error::Download(failure)),
            Err(WebError::Sink(error)) => Err(error),
        }
    }

    /// What is kept of a URL.
    fn known(&self, identity: &Digest) -> Result<Option<Bytes>> {
        let Some(record) = self.store.record_by_identity(identity)? else { return Ok(None) };
        // What another version wrote is fetched again.
        let Ok(about) = serde_json::from_str(&record.data) else { return Ok(None) };
        let tree = self.store.tree(&record.snapshot)?;
        let Some(regular) = tree.get(KEPT).and_then(|found| found.regular().cloned()) else {
            return Ok(None);
        };
        let Regular { size, content, .. } = regular;
        let held = Held::Layer { _snapshot: record.snapshot };
        Ok(Some(Bytes { content, size, about, _held: held }))
    }

    fn keep(&self, identity: &Digest, file: &HttpFile, bytes: &Bytes) -> Result<()> {
        let digest = bytes.about.digest.parse().map_err(|_| file.wrong("no digest".into()))?;
        let attributes = Attributes { mode: 0o600, ..Attributes::default() };
        let layer = self.store.commit_virtual(one_file(KEPT, attributes, bytes, digest))?;
        let record = Record {
            identity: *identity,
            snapshot: Snapshot::default().with(layer),
            about: About { kind: KIND.into(), name: file.shown_url(), ..About::default() },
            data: serde_json::to_string(&bytes.about).expect("texts are JSON"),
        };
        Ok(self.store.save_record(&[], &record)?)
    }
}

/// What the kept bytes of a request are known as. Whoever asks with other credentials asks the
/// server, too.
fn identity(request: &WebRequest) -> Digest {
    let mut hasher = Hasher::new();
    hasher.field(KIND);
    hasher.field(&request.url);
    for (name, value) in &request.headers {
        hasher.field(name);
        hasher.field(value);
    }
    hasher.finish()
}

/// Bytes that were written as a whole.
fn complete(writer: PackWriter, head: &WebHead, keep: Keep) -> Bytes {
    let (content, size, digest) = writer.finish();
    let WebHead { etag, last_modified, disposition, .. } = head.clone();
    let about = Known { digest: digest.to_string(), etag, last_modified, disposition };
    Bytes { content, size, about, _held: Held::Pack { _keep: keep } }
}

fn one_file(name: &[u8], attributes: Attributes, bytes: &Bytes, digest: Digest) -> Node {
    let (size, content) = (bytes.size, bytes.content.clone());
    let regular = Regular { size, content, digest: Some(digest), link_group: None };
    let mut root = Node::empty_root();
    let directory = root.as_directory_mut().expect("a root is a directory");
    directory.children.insert(name.into(), Node { attributes, kind: NodeKind::Regular(regular) });
    root
}

/// Writes what comes into a pack.
struct Sink {
    store: Store,
    keep: Option<Keep>,
    writer: Option<PackWriter>,
}

impl WebSink for Sink {
    type Error = Error;

    fn begin(&mut self, _: &WebHead) -> Result<()> {
        // An earlier attempt's goes when nobody needs it.
        self.keep = Some(self.store.keep());
        self.writer = Some(self.store.new_pack().into_stream()?);
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let writer = self.writer.as_mut().expect("it has begun");
        writing(|| writer.write_all(bytes)).map_err(written)
    }
}

/// Writes, which may have to wait for room, without keeping other tasks from going on.
pub(crate) fn writing<T>(write: impl FnOnce() -> T) -> T {
    match Handle::current().runtime_flavor() {
        RuntimeFlavor::MultiThread => tokio::task::block_in_place(write),
        _ => write(),
    }
}

/// What the store said, if it did.
pub(crate) fn written(error: std::io::Error) -> Error {
    match error.downcast::<cofferdam_store::Error>() {
        Ok(error) => Error::Store(error),
        Err(error) => Err::<(), _>(error)
            .io("cannot store", Path::new("what came"))
            .expect_err("made of an error"),
    }
}

/// The file name of a `Content-Disposition` header.
fn disposed_name(header: &str) -> Option<String> {
    let parameter = |part: &str| {
        let (name, value) = part.trim().split_once('=')?;
        name.trim()
            .eq_ignore_ascii_case("filename")
            .then(|| value.trim().trim_matches('"').to_owned())
    };
    base(&header.split(';').skip(1).find_map(parameter)?)
}

/// The last component of a path, if it can name a file.
fn base(path: &str) -> Option<String> {
    let name = path.trim_end_matches('/').rsplit(['/', '\\']).next().unwrap_or_default();
    let usable = !matches!(name, "" | "." | "..") && !name.contains('\0') && name.len() <= 255;
    usable.then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let file = |url: &str, disposition: Option<&str>, name: Option<&str>| {
            let dir = tempfile::tempdir().expect("a directory");
            let store = Store::open(dir.path()).expect("an empty one");
            let source = HttpSource::new(store, Client::new(Default::default()));
            let options = FileOptions { name: name.map(str::to_owned), ..FileOptions::default() };
            let mut file =
                source.sent(&b"x"[..], url, options).map_err(|error| error.to_string())?;
            let bytes = file.bytes.as_mut().expect("they were sent");
            bytes.about.disposition = disposition.map(str::to_owned);
            file.name().map_err(|error| error.to_string())
        };
        let given = Some("attachment; filename=\"a b.txt\"");
        for (url, disposition, name, expected) in [
            ("http://h/x/y.tar?z=/w#/v", None, None, "y.tar"),
            ("http://h/x/", None, None, "x"),
            ("http://h", None, None, "download"),
            ("http://h/..", None, None, "download"),
            ("http://h/x", given, None, "a b.txt"),
            ("http://h/x", Some("inline; FileName=../../etc/passwd"), None, "passwd"),
            ("http://h/x", Some("attachment; filename=.."), None, "x"),
            ("http://h/x", given, Some("mine"), "mine"),
        ] {
            assert_eq!(
                file(url, disposition, name).as_deref(),
                Ok(expected),
                "{url} {disposition:?}"
            );
        }
        for name in ["", ".", "..", "a/b", "/abs", "a\0b", &"x".repeat(256)] {
            let error = file("http://h/x", None, Some(name)).expect_err(name);
            assert!(error.starts_with("`http://h/x`: the file name"), "{error}");
        }
    }
}
