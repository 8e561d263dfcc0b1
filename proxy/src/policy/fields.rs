//! Reading a JSON document field by field, where a mistake is noted with its path and the reading goes on.

use std::fmt;

use serde_json::Value;

use super::rules::Rule;
use super::status::quoted;

/// A value of a document that knows its path (`spec.targetRefs[0].name`), which is spelt out for a mistake only. An
/// absent field is null, as for the API server.
pub(super) struct Node<'p, 'a> {
    parent: Option<&'p Node<'p, 'a>>,
    step: Step<'p>,
    pub(super) value: &'a Value,
}

/// The last step of a path.
enum Step<'p> {
    Field(&'p str),
    Element(usize),
    Key(&'p str),
}

/// What is wrong with a document: a sentence each, in the order found.
pub(super) type Problems = Vec<String>;

impl<'p, 'a> Node<'p, 'a> {
    pub(super) fn root(name: &'p str, value: &'a Value) -> Self {
        Self {
            parent: None,
            step: Step::Field(name),
            value,
        }
    }

    pub(super) fn absent(&self) -> bool {
        self.value.is_null()
    }

    /// Notes a mistake.
    pub(super) fn wrong(&self, problems: &mut Problems, what: &str) {
        problems.push(format!("{self}: {what}"));
    }

    /// The field `key`; absent too when this is not an object.
    pub(super) fn get(&'p self, key: &'p str) -> Self {
        let value = self.value.get(key).unwrap_or(&Value::Null);
        Self {
            parent: Some(self),
            step: Step::Field(key),
            value,
        }
    }

    /// The values of a map whose keys are free; none when this is not an object.
    pub(super) fn entries(&'p self) -> impl Iterator<Item = (&'a str, Node<'p, 'a>)>
    where
        'a: 'p,
    {
        let entries = self.value.as_object().into_iter().flatten();
        entries.map(move |(key, value)| {
            let (parent, step) = (Some(self), Step::Key(key));
            let entry = Node {
                parent,
                step,
                value,
            };
            (key.as_str(), entry)
        })
    }

    /// Whether this is an object; if not, absent included, that is noted.
    pub(super) fn is_object(&self, problems: &mut Problems) -> bool {
        match self.value {
            Value::Object(_) => return true,
            Value::Null => self.wrong(problems, "required, and missing"),
            _ => self.wrong(problems, "must be an object"),
        }
        false
    }

    /// The elements of a list; more than `max` are noted and still given. Absent is empty; a lone object is noted and
    /// read as a list of one.
    pub(super) fn list(&'p self, max: usize, problems: &mut Problems) -> Vec<Self> {
        let values = match self.value {
            Value::Null => &[],
            Value::Array(values) => values.as_slice(),
            lone => {
                self.wrong(problems, "must be a list");
                if lone.is_object() {
                    std::slice::from_ref(lone)
                } else {
                    &[]
                }
            }
        };
        if values.len() > max {
            let count = values.len();
            self.wrong(
                problems,
                &format!("has {count} entries: at most {max} are allowed"),
            );
        }
        let element = |(i, value)| Self {
            parent: Some(self),
            step: Step::Element(i),
            value,
        };
        values.iter().enumerate().map(element).collect()
    }

    /// A string that keeps to `rule`. If it doesn't that is noted; absence is noted with `cure`.
    pub(super) fn required(
        &self,
        cure: &str,
        rule: Rule,
        problems: &mut Problems,
    ) -> Option<&'a str> {
        if self.absent() {
            self.wrong(problems, &format!("required, and missing: {cure}"));
        }
        self.optional(rule, problems)
    }

    /// As [`Self::required`], but absence is fine.
    pub(super) fn optional(&self, rule: Rule, problems: &mut Problems) -> Option<&'a str> {
        let broken = match self.value {
            Value::Null => return None,
            Value::String(text) => match rule(text) {
                Ok(()) => return Some(text),
                Err(broken) => broken,
            },
            _ => "must be a string (in YAML: put it in quotes)".to_owned(),
        };
        self.wrong(problems, &broken);
        None
    }
}

impl fmt::Display for Node<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
        }
        match self.step {
            Step::Field(name) if self.parent.is_none() => f.write_str(name),
            Step::Field(name) => write!(f, ".{name}"),
            Step::Element(i) => write!(f, "[{i}]"),
            Step::Key(key) => write!(f, "[{}]", quoted(key)),
        }
    }
}
