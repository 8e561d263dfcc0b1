//! Whether the agent is ready, and if not, why: named tasks that must be done first, and problems that come and go.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The readiness of the process. Clones share it. Ready while no task is pending and no problem is set.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    next_id: u64,
    pending: BTreeMap<u64, String>,
    problems: BTreeMap<String, String>,
    notes: BTreeMap<String, String>,
}

impl Readiness {
    /// Not ready until the returned guard is dropped.
    pub fn task(&self, name: impl Into<String>) -> Pending {
        let mut state = self.lock();
        let id = state.next_id;
        state.next_id += 1;
        state.pending.insert(id, name.into());
        Pending {
            readiness: self.clone(),
            id,
        }
    }

    /// Not ready until [`Readiness::clear`] is called with the same name. Replaces an earlier text; whether it is
    /// another one.
    pub fn set_problem(&self, name: impl Into<String>, text: impl Into<String>) -> bool {
        let text = text.into();
        let before = self.lock().problems.insert(name.into(), text.clone());
        before != Some(text)
    }

    /// Takes a problem back; none of that name is fine.
    pub fn clear(&self, name: &str) {
        self.lock().problems.remove(name);
    }

    /// Something that a user should know, although it keeps nobody from being ready. Replaces an earlier text; whether it
    /// is another one.
    pub fn set_note(&self, name: impl Into<String>, text: impl Into<String>) -> bool {
        let text = text.into();
        let before = self.lock().notes.insert(name.into(), text.clone());
        before != Some(text)
    }

    /// Takes a note back; none of that name is fine.
    pub fn clear_note(&self, name: &str) {
        self.lock().notes.remove(name);
    }

    /// The notes, a line each (`note: NAME: TEXT`).
    pub fn notes(&self) -> Vec<String> {
        let state = self.lock();
        let notes = state.notes.iter();
        notes
            .map(|(name, text)| format!("note: {name}: {text}"))
            .collect()
    }

    /// Whether a problem is set, whatever else is pending.
    pub fn has_problems(&self) -> bool {
        !self.lock().problems.is_empty()
    }

    /// What is missing, a line each (`pending: NAME`, `failed: NAME: TEXT`). Empty when ready.
    pub fn missing(&self) -> Vec<String> {
        let entries = self.entries().into_iter();
        let line = |(name, problem)| match problem {
            None => format!("pending: {name}"),
            Some(text) => format!("failed: {name}: {text}"),
        };
        entries.map(line).collect()
    }

    /// The same: the names of tasks that are pending, and problems with their texts.
    pub fn entries(&self) -> Vec<(String, Option<String>)> {
        let state = self.lock();
        let pending = state.pending.values().map(|name| (name.clone(), None));
        let problems = state.problems.iter();
        let problems = problems.map(|(name, text)| (name.clone(), Some(text.clone())));
        pending.chain(problems).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A task that must be done before the process is ready. Dropping it says that it is done.
#[derive(Debug)]
#[must_use = "dropping it marks the task as done"]
pub struct Pending {
    readiness: Readiness,
    id: u64,
}

impl Pending {
    /// Marks the task as done.
    pub fn done(self) {}
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.readiness.lock().pending.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_for_every_task_and_reports_problems() {
        let readiness = Readiness::default();
        let programs = readiness.task("programs attached");
        let pods = readiness.task("pods enrolled");
        readiness.set_problem("targets", "map full");
        assert_eq!(
            readiness.missing(),
            [
                "pending: programs attached",
                "pending: pods enrolled",
                "failed: targets: map full"
            ]
        );
        programs.done();
        drop(pods);
        assert_eq!(readiness.missing(), ["failed: targets: map full"]);
        readiness.clear("targets");
        assert!(readiness.missing().is_empty());
        readiness.set_problem("targets", "again");
        assert_eq!(readiness.missing(), ["failed: targets: again"]);
    }

    #[test]
    fn tasks_of_the_same_name_count_each() {
        let readiness = Readiness::default();
        let (first, second) = (readiness.task("netns"), readiness.task("netns"));
        first.done();
        assert_eq!(readiness.missing(), ["pending: netns"]);
        second.done();
        assert!(readiness.missing().is_empty());
    }
}
