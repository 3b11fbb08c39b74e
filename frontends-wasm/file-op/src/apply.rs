//! Applies the actions of a file op in their order: finds the trees that each works on, hands
//! over to the module of its kind, and gathers the outputs.

use crate::action::{Action, ActionInput, ActionKind, Ownership, Principal};
use crate::error::Error;
use crate::owner::{self, Account, Owner};
use crate::tree::Layer;
use crate::{copy, edit};

/// What failed, and in which action.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{error}")]
pub struct ActionError {
    /// Number of the action, from 0.
    pub action: u32,
    /// What is wrong.
    pub error: Error,
}

/// Applies the actions in order. `now` is the time, in nanoseconds since 1970, for what has no
/// timestamp of its own. Returns the layers of the outputs, in order of their numbers.
///
/// # Errors
/// For the first action that fails; no layer comes back then.
pub fn apply<L: Layer>(
    actions: &[Action],
    inputs: &[L::Tree],
    now: i64,
) -> Result<Vec<L>, ActionError> {
    let scratch = L::new(None);
    let uses = uses(actions);
    let mut state = State { inputs, scratch, layers: Vec::new(), uses };
    for (number, action) in actions.iter().enumerate() {
        state.run(action, now).map_err(|error| ActionError { action: number as u32, error })?;
    }
    let mut outputs: Vec<Option<L>> = Vec::new();
    outputs.resize_with(actions.iter().filter(|action| action.output.is_some()).count(), || None);
    for (number, (action, layer)) in actions.iter().zip(state.layers).enumerate() {
        let Some(output) = action.output else { continue };
        match outputs.get_mut(output as usize) {
            Some(place @ None) => *place = layer,
            _ => {
                let error = Error::Output(output);
                return Err(ActionError { action: number as u32, error });
            }
        }
    }
    Ok(outputs.into_iter().flatten().collect())
}

/// How often the result of each action is needed, by later actions or as an output.
fn uses(actions: &[Action]) -> Vec<usize> {
    let mut uses = vec![0; actions.len()];
    for action in actions {
        for reference in action.kind.references().into_iter().chain([action.input]) {
            if let ActionInput::Action(index) = reference
                && let Some(count) = uses.get_mut(index as usize)
            {
                *count += 1;
            }
        }
    }
    for (count, action) in uses.iter_mut().zip(actions) {
        *count += usize::from(action.output.is_some());
    }
    uses
}

struct State<'a, L: Layer> {
    inputs: &'a [L::Tree],
    /// An empty layer, of which nothing but the view is used.
    scratch: L,
    /// Results of the actions so far; one that went on into a later action is gone.
    layers: Vec<Option<L>>,
    uses: Vec<usize>,
}

/// A tree to read from.
enum Source<'a, T> {
    Input(&'a T),
    View(T),
}

impl<T> AsRef<T> for Source<'_, T> {
    fn as_ref(&self) -> &T {
        match self {
            Self::Input(tree) => tree,
            Self::View(tree) => tree,
        }
    }
}

impl<L: Layer> State<'_, L> {
    fn run(&mut self, action: &Action, now: i64) -> Result<(), Error> {
        let layer = self.start(action.input)?;
        let view = layer.view();
        match &action.kind {
            ActionKind::Copy(copy) => {
                let from = self.source(copy.from)?;
                let owner = self.owner(copy.owner.as_ref())?;
                copy::copy(copy, &layer, &view, from.as_ref(), owner, now)?;
            }
            ActionKind::MakeFile(make) => {
                let owner = self.owner(make.owner.as_ref())?;
                edit::make_file(make, &layer, &view, owner, now)?;
            }
            ActionKind::MakeDirectory(make) => {
                let owner = self.owner(make.owner.as_ref())?;
                edit::make_directory(make, &layer, &view, owner, now)?;
            }
            ActionKind::MakeSymlink(make) => {
                let owner = self.owner(make.owner.as_ref())?;
                edit::make_symlink(make, &layer, &view, owner, now)?;
            }
            ActionKind::Remove(remove) => edit::remove(remove, &layer, &view)?,
        }
        for reference in action.kind.references() {
            if let ActionInput::Action(index) = reference {
                self.uses[index as usize] -= 1;
            }
        }
        self.layers.push(Some(layer));
        Ok(())
    }

    /// The layer that an action edits: a result that nobody else needs is edited further, one
    /// that is still needed is forked.
    fn start(&mut self, input: ActionInput) -> Result<L, Error> {
        match input {
            ActionInput::Scratch => Ok(L::new(None)),
            ActionInput::Input(index) => Ok(L::new(Some(self.input(index)?))),
            ActionInput::Action(index) => {
                self.result(index)?;
                let at = index as usize;
                self.uses[at] -= 1;
                let taken = if self.uses[at] == 0 { self.layers[at].take() } else { None };
                Ok(match taken {
                    Some(layer) => layer,
                    None => self.result(index)?.fork(),
                })
            }
        }
    }

    fn input(&self, index: u32) -> Result<&L::Tree, Error> {
        let count = self.inputs.len();
        self.inputs.get(index as usize).ok_or(Error::Reference { what: "input", index, count })
    }

    fn result(&self, index: u32) -> Result<&L, Error> {
        let found = self.layers.get(index as usize).and_then(Option::as_ref);
        let count = self.layers.len();
        found.ok_or(Error::Reference { what: "earlier action", index, count })
    }

    fn source(&self, input: ActionInput) -> Result<Source<'_, L::Tree>, Error> {
        Ok(match input {
            ActionInput::Scratch => Source::View(self.scratch.view()),
            ActionInput::Input(index) => Source::Input(self.input(index)?),
            ActionInput::Action(index) => Source::View(self.result(index)?.view()),
        })
    }

    fn owner(&self, owner: Option<&Ownership>) -> Result<Option<Owner>, Error> {
        let Some(Ownership { user, group }) = owner else { return Ok(None) };
        let trees = (self.account_tree(user.as_ref())?, self.account_tree(group.as_ref())?);
        let user = account(user.as_ref(), trees.0.as_ref());
        let group = account(group.as_ref(), trees.1.as_ref());
        owner::look_up(user, group).map(Some)
    }

    fn account_tree(
        &self,
        principal: Option<&Principal>,
    ) -> Result<Option<Source<'_, L::Tree>>, Error> {
        match principal {
            Some(Principal::Name(name, ActionInput::Scratch)) => {
                Err(Error::NoTreeForName(name.clone()))
            }
            Some(Principal::Name(_, tree)) => self.source(*tree).map(Some),
            Some(Principal::Id(_)) | None => Ok(None),
        }
    }
}

fn account<'a, T>(
    principal: Option<&'a Principal>,
    tree: Option<&'a Source<'_, T>>,
) -> Option<Account<'a, T>> {
    match (principal?, tree) {
        (Principal::Id(id), _) => Some(Account::Id(*id)),
        (Principal::Name(name, _), Some(tree)) => Some(Account::Name(name, tree.as_ref())),
        (Principal::Name(..), None) => None,
    }
}
