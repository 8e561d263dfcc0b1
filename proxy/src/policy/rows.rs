//! A table whose rows have names and numbers: a name is looked up once, and from then on it is a number.

use std::collections::HashMap;
use std::ops::{Index, IndexMut};

use super::snapshot::ObjectName;

/// The number of a row. That of a row that was removed is given to another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Id(usize);

/// Rows by number. One that was removed is empty (its default).
#[derive(Default)]
pub(super) struct Rows<T> {
    ids: HashMap<ObjectName, Id>,
    rows: Vec<(ObjectName, T)>,
    free: Vec<Id>,
}

impl<T: Default> Rows<T> {
    /// Makes room for so many rows in all.
    pub(super) fn reserve(&mut self, count: usize) {
        self.ids.reserve(count.saturating_sub(self.ids.len()));
        self.rows.reserve(count.saturating_sub(self.rows.len()));
    }

    pub(super) fn find(&self, name: &ObjectName) -> Option<Id> {
        self.ids.get(name).copied()
    }

    /// The row of this name, which is empty if there was none.
    pub(super) fn find_or_add(&mut self, name: &ObjectName) -> Id {
        *self.ids.entry(name.clone()).or_insert_with(|| {
            let row = (name.clone(), T::default());
            if let Some(id) = self.free.pop() {
                self.rows[id.0] = row;
                return id;
            }
            self.rows.push(row);
            Id(self.rows.len() - 1)
        })
    }

    pub(super) fn remove(&mut self, id: Id) {
        let (name, row) = &mut self.rows[id.0];
        if self.ids.remove(name).is_some() {
            *row = T::default();
            self.free.push(id);
        }
    }

    pub(super) fn name(&self, id: Id) -> &ObjectName {
        &self.rows[id.0].0
    }

    /// All rows, the empty ones too.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Id, &T)> {
        let rows = self.rows.iter().enumerate();
        rows.map(|(place, (_, row))| (Id(place), row))
    }
}

impl<T> Index<Id> for Rows<T> {
    type Output = T;

    fn index(&self, id: Id) -> &T {
        &self.rows[id.0].1
    }
}

impl<T> IndexMut<Id> for Rows<T> {
    fn index_mut(&mut self, id: Id) -> &mut T {
        &mut self.rows[id.0].1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_given_again_and_its_row_is_empty_then() {
        let name = |name| ObjectName::new("default", name);
        let mut rows = Rows::<u8>::default();
        let [one, two] = ["one", "two"].map(|one| rows.find_or_add(&name(one)));
        rows[one] = 1;
        rows[two] = 2;
        rows.remove(one);
        rows.remove(one);
        assert_eq!((rows.find(&name("one")), rows[one]), (None, 0));
        assert_eq!(rows.find_or_add(&name("three")), one);
        let four = rows.find_or_add(&name("four"));
        assert_eq!(rows[four], 0);
        let found = ["two", "three"].map(|one| rows.find_or_add(&name(one)));
        assert_eq!((found, rows[two]), ([two, one], 2));
        assert_eq!(rows.name(one), &name("three"));
    }
}
