//! The variables of a stage, in the order in which they were set last.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use crate::error::Problem;
use crate::words::{Budget, Variables};

/// The most bytes that names and values may have together. No kernel takes that much, and no
/// doubling of a doubled variable gets further.
const MOST_BYTES: usize = 4 << 20;

/// Variables.
#[derive(Clone, Debug, Default)]
pub(super) struct Environment {
    /// In order; `None` is where one stood that was set again.
    entries: Vec<Option<(String, String)>>,
    index: BTreeMap<String, usize>,
    bytes: usize,
    /// What there is for values, in all of the file.
    budget: Rc<Budget>,
    /// Names that were used without being set, and without saying what then.
    missed: RefCell<BTreeSet<String>>,
}

impl Environment {
    /// Variables in order.
    pub fn new(variables: Vec<(String, String)>, budget: Rc<Budget>) -> Self {
        let mut environment = Self { budget, ..Self::default() };
        for (name, value) in variables {
            environment.put(&name, &value);
        }
        environment
    }

    /// Sets a variable.
    ///
    /// # Errors
    /// When there is no room for it.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), Problem> {
        self.put(name, value);
        match self.bytes <= MOST_BYTES {
            true => Ok(()),
            false => {
                let most = MOST_BYTES >> 20;
                let message = format!("the variables of a stage have more than {most} MiB");
                Err(Problem::Syntax(message))
            }
        }
    }

    fn put(&mut self, name: &str, value: &str) {
        self.bytes += name.len() + value.len();
        if let Some(at) = self.index.insert(name.to_owned(), self.entries.len())
            && let Some((name, value)) = self.entries[at].take()
        {
            self.bytes -= name.len() + value.len();
        }
        self.entries.push(Some((name.to_owned(), value.to_owned())));
        if self.entries.len() > 2 * self.index.len() + 16 {
            self.entries.retain(Option::is_some);
            let names = self.entries.iter().flatten().enumerate();
            self.index = names.map(|(at, (name, _))| (name.clone(), at)).collect();
        }
    }

    /// Names and values in order.
    pub fn iter(&self) -> impl Iterator<Item = &(String, String)> {
        self.entries.iter().flatten()
    }

    /// The names that were missed since somebody asked.
    pub fn take_missed(&self) -> BTreeSet<String> {
        self.missed.take()
    }
}

impl Variables for Environment {
    fn get(&self, name: &str) -> Option<&str> {
        let at = self.index.get(name)?;
        self.entries[*at].as_ref().map(|(_, value)| value.as_str())
    }

    fn missed(&self, name: &str) {
        self.missed.borrow_mut().insert(name.to_owned());
    }

    fn spend(&self, work: usize) -> bool {
        self.budget.spend(work)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_again_moves_to_the_end() {
        let variables = vec![("a".into(), "1".into()), ("b".into(), "2".into())];
        let mut env = Environment::new(variables, Rc::default());
        for round in 0..100 {
            env.set("a", &round.to_string()).unwrap();
        }
        let shown: Vec<_> = env.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(shown, ["b=2", "a=99"]);
        assert_eq!((env.get("a"), env.get("c")), (Some("99"), None));
        assert!(env.entries.len() < 40);
        let long = "x".repeat(MOST_BYTES);
        assert!(env.set("a", &long).is_err());
        env.set("a", "").unwrap();
    }
}
