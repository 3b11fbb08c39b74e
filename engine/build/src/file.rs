//! File ops: run by the file-op component over trees of the store.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use cofferdam_llb::{ActionInput, FileActionKind, FileOp, Op, OpKind};
use cofferdam_store::{Selection, Snapshot};

use crate::Error;
use crate::graph::BuildContext;
use crate::trees::{Factory, StoreLayer, StoreTree};
use crate::vertex::{OpKey, blocking};

/// The key: the actions. Where a copy's source lies in an input enters by its content.
pub(crate) fn key(op: &Op, file: &FileOp) -> OpKey {
    let count = op.inputs.len();
    let mut reads: Vec<Option<Vec<Selection>>> = vec![Some(Vec::new()); count];
    let mut whole = |input: Option<u32>| {
        if let Some(ActionInput::Input(input)) = input.map(|input| ActionInput::of(input, count)) {
            reads[input as usize] = None;
        }
    };
    for action in &file.actions {
        // What is changed is also what the result is made of.
        whole(action.input);
        for user in action.kind.owner().into_iter().flat_map(|owner| owner.names()) {
            whole(user.input);
        }
    }
    let mut normal = file.clone();
    for action in &mut normal.actions {
        let FileActionKind::Copy(copy) = &mut action.kind else { continue };
        if let Some(ActionInput::Input(from)) = position(action.secondary_input, count)
            && let Some(selections) = &mut reads[from as usize]
        {
            let src = clean(&copy.src);
            // Patterns that leave files out need no selection: hashing all of the source is
            // enough to tell a change.
            selections.push(Selection {
                path: src.as_bytes().to_vec(),
                wildcard: copy.allow_wildcard,
                // An archive is found through links in any case.
                follow: copy.follow_symlink || copy.attempt_unpack,
            });
            copy.src = src.rsplit('/').next().unwrap_or_default().to_owned();
        }
    }
    // An input that no action names is read as a whole, to be on the safe side.
    for selections in &mut reads {
        if selections.as_ref().is_some_and(Vec::is_empty) {
            *selections = None;
        }
    }
    let kind = OpKind::File(normal);
    OpKey { normal: Op { inputs: Vec::new(), kind, platform: None, constraints: None }, reads }
}

/// Makes a path relative to its root without `.` and `..`, as the component does.
pub(crate) fn clean(path: &str) -> String {
    let mut names: Vec<&str> = Vec::new();
    for name in path.split('/') {
        match name {
            "" | "." => {}
            ".." => drop(names.pop()),
            name => names.push(name),
        }
    }
    names.join("/")
}

/// Whether modification times are part of what the op makes: it sets them, or unpacks them.
pub(crate) fn sets_times(file: &FileOp) -> bool {
    file.actions.iter().any(|action| match &action.kind {
        FileActionKind::Copy(copy) => copy.attempt_unpack || copy.timestamp.is_some(),
        FileActionKind::Mkfile(mkfile) => mkfile.timestamp.is_some(),
        FileActionKind::Mkdir(mkdir) => mkdir.timestamp.is_some(),
        FileActionKind::Symlink(symlink) => symlink.timestamp.is_some(),
        FileActionKind::Rm(_) => false,
    })
}

fn position(input: Option<u32>, inputs: usize) -> Option<ActionInput> {
    input.map(|input| ActionInput::of(input, inputs))
}

/// Applies the actions. No bytes of a copied file are touched: the layers that come of it refer
/// to where the bytes are.
pub(crate) async fn run(
    context: &BuildContext,
    op: FileOp,
    inputs: Vec<Snapshot>,
) -> Result<Vec<Snapshot>, Error> {
    let engine = context.engine.clone();
    blocking(move || {
        let file_ops = engine.file_ops()?;
        let store = &engine.store;
        // Packs that the op fills, until a layer refers to them.
        let _keep = store.keep();
        let trees = inputs
            .iter()
            .map(|input| Ok(StoreTree::new(store.tree(input)?).shared()))
            .collect::<Result<Vec<_>, Error>>()?;
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |age| i64::try_from(age.as_nanos()).unwrap_or(i64::MAX));
        let factory = Arc::new(Factory { store: store.clone() });
        let layers = file_ops.apply(&op, trees, now, factory).map_err(|error| match error {
            cofferdam_component::Error::FileAction { message, .. } => Error::File { message },
            other => other.into(),
        })?;
        layers
            .into_iter()
            .enumerate()
            .map(|(output, layer)| {
                let layer = store.commit_virtual(StoreLayer::finish(layer)?)?;
                Ok(base(&op, output, &inputs).with(layer))
            })
            .collect()
    })
    .await
}

/// What the layer of an output lies on.
fn base(op: &FileOp, output: usize, inputs: &[Snapshot]) -> Snapshot {
    let output = u32::try_from(output).ok();
    let mut action = op.actions.iter().find(|action| action.output == output);
    while let Some(current) = action {
        match position(current.input, inputs.len()) {
            None => break,
            Some(ActionInput::Input(input)) => return inputs[input as usize].clone(),
            Some(ActionInput::Action(earlier)) => action = op.actions.get(earlier as usize),
        }
    }
    Snapshot::default()
}
