//! The actions of a file op, as LLB describes them (`pb.FileAction`). Plain data: what the fields
//! mean is decided where they are carried out.

/// The tree that an action works on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ActionInput {
    /// An empty tree.
    Scratch,
    /// A tree of [`apply`](crate::apply)'s inputs.
    Input(u32),
    /// The result of an earlier action.
    Action(u32),
}

/// A user or group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Principal {
    /// A number.
    Id(u32),
    /// A name, looked up in `/etc/passwd` or `/etc/group` of that tree.
    Name(String, ActionInput),
}

/// New owner.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ownership {
    /// The user.
    pub user: Option<Principal>,
    /// The group.
    pub group: Option<Principal>,
}

/// Copies from another tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copy {
    /// The tree that `src` is in.
    pub from: ActionInput,
    /// Path or pattern.
    pub src: String,
    /// Destination.
    pub dest: String,
    /// New owner.
    pub owner: Option<Ownership>,
    /// New permission bits.
    pub mode: Option<u32>,
    /// New permission bits, symbolic; goes before `mode`.
    pub mode_string: String,
    /// Follow a symlink that `src` ends in.
    pub follow_symlink: bool,
    /// Of a directory copy the contents.
    pub dir_copy_contents: bool,
    /// Unpack archives.
    pub attempt_unpack: bool,
    /// Make missing parents of `dest`.
    pub create_dest_path: bool,
    /// Whether `src` is a pattern.
    pub allow_wildcard: bool,
    /// Whether a pattern may match nothing.
    pub allow_empty_wildcard: bool,
    /// New modification time.
    pub timestamp: Option<i64>,
    /// Only paths that match.
    pub include_patterns: Vec<String>,
    /// No paths that match.
    pub exclude_patterns: Vec<String>,
    /// Replace what is in the way.
    pub always_replace_existing: bool,
    /// Paths, from `src` on, that must exist.
    pub required_paths: Vec<String>,
}

/// Writes a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MakeFile {
    /// Path.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// Contents.
    pub data: Vec<u8>,
    /// Owner.
    pub owner: Option<Ownership>,
    /// Modification time.
    pub timestamp: Option<i64>,
}

/// Makes a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MakeDirectory {
    /// Path.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// Make missing parents.
    pub make_parents: bool,
    /// Owner.
    pub owner: Option<Ownership>,
    /// Modification time.
    pub timestamp: Option<i64>,
}

/// Removes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remove {
    /// Path or pattern.
    pub path: String,
    /// A path that does not exist is right.
    pub allow_not_found: bool,
    /// Whether `path` is a pattern.
    pub allow_wildcard: bool,
}

/// Makes a symlink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MakeSymlink {
    /// What the link says.
    pub oldpath: String,
    /// Where the link is.
    pub newpath: String,
    /// Owner.
    pub owner: Option<Ownership>,
    /// Modification time.
    pub timestamp: Option<i64>,
}

/// What an action does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ActionKind {
    /// Copies.
    Copy(Copy),
    /// Writes a file.
    MakeFile(MakeFile),
    /// Makes a directory.
    MakeDirectory(MakeDirectory),
    /// Removes.
    Remove(Remove),
    /// Makes a symlink.
    MakeSymlink(MakeSymlink),
}

impl ActionKind {
    /// The trees, beside the one that is changed, that the action reads from.
    pub(crate) fn references(&self) -> Vec<ActionInput> {
        let (from, owner) = match self {
            Self::Copy(copy) => (Some(copy.from), &copy.owner),
            Self::MakeFile(make) => (None, &make.owner),
            Self::MakeDirectory(make) => (None, &make.owner),
            Self::MakeSymlink(make) => (None, &make.owner),
            Self::Remove(_) => (None, &None),
        };
        let principals = owner.iter().flat_map(|owner| owner.user.iter().chain(&owner.group));
        let named = principals.filter_map(|principal| match principal {
            Principal::Name(_, tree) => Some(*tree),
            Principal::Id(_) => None,
        });
        from.into_iter().chain(named).collect()
    }
}

/// One action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Action {
    /// The tree that is changed.
    pub input: ActionInput,
    /// How.
    pub kind: ActionKind,
    /// Which output of the op the result is; `None`: only later actions see it.
    pub output: Option<u32>,
}
