//! Medians, spreads and ratios.

use std::collections::BTreeMap;

use super::peer::Peer;
use super::scenario::{Better, Figure, Measured, Scenario};

/// All measurements.
#[derive(Default)]
pub(super) struct Results(BTreeMap<(Scenario, Peer), Vec<Measured>>);

impl Results {
    pub(super) fn add(&mut self, scenario: Scenario, peer: Peer, measured: Measured) {
        self.0.entry((scenario, peer)).or_default().push(measured);
    }

    /// One figure of a scenario, of all peers that have it.
    pub(super) fn column(&self, scenario: Scenario, figure: Figure) -> Column {
        let of_scenario = self.0.iter().filter(|((of, _), _)| *of == scenario);
        let spreads = of_scenario.filter_map(|((_, peer), measured)| {
            let figures = measured.iter().map(figure.of).collect::<Option<Vec<_>>>()?;
            Some((*peer, Spread::of(figures)?))
        });
        Column {
            spreads: spreads.collect(),
            figure,
        }
    }
}

/// One figure of a scenario.
pub(super) struct Column {
    pub(super) spreads: BTreeMap<Peer, Spread>,
    pub(super) figure: Figure,
}

impl Column {
    pub(super) fn median(&self, peer: Peer) -> Option<f64> {
        Some(self.spreads.get(&peer)?.median)
    }

    /// The best proxy that is not nodetls, and its median.
    pub(super) fn best_rival(&self) -> Option<(Peer, f64)> {
        let rivals = self.spreads.iter().filter(|(peer, _)| peer.is_rival());
        let medians = rivals.map(|(peer, spread)| (*peer, spread.median));
        match self.figure.better {
            Some(Better::More) => medians.max_by(|a, b| a.1.total_cmp(&b.1)),
            _ => medians.min_by(|a, b| a.1.total_cmp(&b.1)),
        }
    }

    /// The peer's median, in medians of `to`.
    pub(super) fn ratio(&self, peer: Peer, to: Option<f64>) -> Option<f64> {
        let to = to.filter(|to| *to > 0.0)?;
        Some(self.median(peer)? / to)
    }
}

/// What the rounds gave.
#[derive(Debug, PartialEq)]
pub(super) struct Spread {
    pub(super) min: f64,
    pub(super) median: f64,
    pub(super) max: f64,
}

impl Spread {
    /// `None` of nothing.
    pub(super) fn of(mut figures: Vec<f64>) -> Option<Self> {
        figures.sort_by(f64::total_cmp);
        let middle = figures.len() / 2;
        let upper = *figures.get(middle)?;
        let median = if figures.len() % 2 == 1 {
            upper
        } else {
            figures[middle - 1].midpoint(upper)
        };
        Some(Self {
            min: *figures.first()?,
            median,
            max: *figures.last()?,
        })
    }
}
