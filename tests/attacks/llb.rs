//! Enough of LLB's wire format (`solver/pb/ops.proto` of BuildKit) to write graphs that no checked
//! type can hold.

use sha2::{Digest as _, Sha256};

/// A field of bytes, a text or a message.
pub(crate) fn field(number: u32, contents: impl AsRef<[u8]>) -> Vec<u8> {
    let contents = contents.as_ref();
    let mut out = varint(u64::from(number) << 3 | 2);
    out.extend(varint(contents.len() as u64));
    out.extend(contents);
    out
}

/// A field that is a number.
pub(crate) fn number(number: u32, value: i64) -> Vec<u8> {
    [varint(u64::from(number) << 3), varint(value as u64)].concat()
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
    out
}

/// Ops, each an input of the next.
pub(crate) struct Chain(Vec<Vec<u8>>);

impl Chain {
    /// Starts with the build's context.
    pub(crate) fn context() -> Self {
        Self(vec![field(3, field(1, "local://context"))])
    }

    /// Adds an op whose only input is the one before.
    pub(crate) fn then(mut self, op: impl AsRef<[u8]>) -> Self {
        let last = self.0.last().expect("it has started");
        let digest = format!("sha256:{}", hex::encode(Sha256::digest(last)));
        let input = field(1, field(1, digest));
        self.0.push([&input, op.as_ref()].concat());
        self
    }

    /// The option by which the frontend `attack-raw-llb` tries this graph; its last op stands for
    /// the result.
    pub(crate) fn option(&self, name: &str) -> String {
        let last = self.0.last().expect("it has started");
        let digest = format!("sha256:{}", hex::encode(Sha256::digest(last)));
        let end = field(1, field(1, digest));
        let ops = self.0.iter().chain([&end]).map(hex::encode).collect::<Vec<_>>();
        format!("try.{name}={}", ops.join(","))
    }
}

/// An exec op that runs a shell script of a context with busybox, in this directory, with what is
/// added to its `ExecOp`.
pub(crate) fn shell(script: &str, cwd: &str, more: &[u8]) -> Vec<u8> {
    let args = ["/bin/busybox", "sh", "-c", script];
    let args: Vec<u8> = args.iter().flat_map(|arg| field(1, arg)).collect();
    let meta = [args, field(2, "PATH=/bin"), field(3, cwd)].concat();
    let root = [number(1, 0), field(3, "/"), number(4, 0)].concat();
    field(2, [field(1, meta), field(2, root), more.to_vec()].concat())
}

/// A file op of one action, which reads and changes the op's input: the action's own field and
/// message.
pub(crate) fn file(action: u32, message: &[u8]) -> Vec<u8> {
    // Only a copy reads from anything else.
    let from = if action == 4 { 0 } else { -1 };
    let header = [number(1, 0), number(2, from), number(3, 0)].concat();
    field(4, field(2, [header, field(action, message)].concat()))
}
