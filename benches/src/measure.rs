//! Two things measured in turns (A B A B …), so that what else goes on at the machine falls on both alike.

use std::fmt::Write as _;
use std::time::Duration;

/// What one way of doing the work took or reached, a figure a round, in their order.
#[derive(Clone, Debug, Default)]
pub struct Series(Vec<f64>);

impl Series {
    /// Of figures.
    pub fn of(figures: Vec<f64>) -> Self {
        Self(figures)
    }

    /// Each figure as something else, such as a time as a rate.
    pub fn map(&self, change: impl Fn(f64) -> f64) -> Self {
        Self::of(self.0.iter().map(|figure| change(*figure)).collect())
    }

    /// What each is to the other's of the same round: what else the machine did then fell on both alike.
    pub fn to(&self, other: &Self) -> Self {
        Self::of(self.0.iter().zip(&other.0).map(|(figure, other)| figure / other).collect())
    }

    fn sorted(&self) -> Vec<f64> {
        let mut figures = self.0.clone();
        figures.sort_by(f64::total_cmp);
        figures
    }

    /// The middle one.
    pub fn median(&self) -> f64 {
        let figures = self.sorted();
        let n = figures.len();
        match (n, n % 2) {
            (0, _) => f64::NAN,
            (_, 1) => figures[n / 2],
            _ => f64::midpoint(figures[n / 2 - 1], figures[n / 2]),
        }
    }

    /// Half of what lies between the lowest and the highest, in parts of the median.
    pub fn spread(&self) -> f64 {
        let figures = self.sorted();
        match (figures.first(), figures.last()) {
            // Of nothing but zeros there is none.
            (Some(_), Some(0.0)) => 0.0,
            (Some(low), Some(high)) => (high - low) / 2.0 / self.median(),
            _ => f64::NAN,
        }
    }
}

/// Measures each of `works` once a round, `rounds` times, after one round that does not count.
pub fn in_turns<E>(rounds: usize, works: &mut [&mut dyn FnMut() -> Result<f64, E>]) -> Result<Vec<Series>, E> {
    let mut figures = vec![Vec::new(); works.len()];
    for round in 0..=rounds {
        for (work, figures) in works.iter_mut().zip(&mut figures) {
            let figure = work()?;
            if round > 0 {
                figures.push(figure);
            }
        }
    }
    Ok(figures.into_iter().map(Series::of).collect())
}

/// The processor time that this process and the children it has waited for have taken.
pub fn processor_time() -> Duration {
    let of = |who| {
        // SAFETY: the structure is plain integers, and the call fills it whole.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        // SAFETY: the pointer is to a live structure.
        unsafe { libc::getrusage(who, &raw mut usage) };
        let time = |t: libc::timeval| {
            Duration::new(t.tv_sec.unsigned_abs(), u32::try_from(t.tv_usec * 1000).unwrap_or_default())
        };
        time(usage.ru_utime) + time(usage.ru_stime)
    };
    of(libc::RUSAGE_SELF) + of(libc::RUSAGE_CHILDREN)
}

/// A line of the table of docs/performance.md.
#[derive(Clone, Debug)]
pub struct Row {
    /// What was done.
    pub work: String,
    /// What it was, by warren.
    pub ours: String,
    /// What it was, by whom it is held against.
    pub theirs: String,
    /// Ours to theirs.
    pub ratio: Option<f64>,
    /// What it must reach.
    pub goal: &'static str,
    /// Whether it does.
    pub reached: Option<bool>,
}

/// A figure with its unit, three digits long.
pub fn figure(series: &Series, unit: &str) -> String {
    let value = series.median();
    if value == 0.0 {
        return "0".to_owned();
    }
    let digits = if value >= 100.0 {
        0
    } else if value >= 10.0 {
        1
    } else {
        2
    };
    let mut text = format!("{value:.digits$} {unit}");
    // Writing to a string cannot fail.
    let _ = write!(text, " ±{:.0} %", 100.0 * series.spread());
    text
}

/// A bound on a ratio or figure.
#[derive(Clone, Copy, Debug)]
pub enum Bound {
    /// No more than.
    Most(f64),
    /// No less than.
    Least(f64),
}

impl Bound {
    /// Whether `value` keeps to it.
    pub fn holds(self, value: f64) -> bool {
        match self {
            Self::Most(bound) => value <= bound,
            Self::Least(bound) => value >= bound,
        }
    }
}

/// A row of a ratio: the median of the rounds' own.
pub fn compared(
    work: &str,
    unit: &str,
    ours: &Series,
    peer: &str,
    theirs: &Series,
    goal: (&'static str, Bound),
) -> Row {
    let ratio = ours.to(theirs).median();
    Row {
        work: work.to_owned(),
        ours: figure(ours, unit),
        theirs: format!("{peer}: {}", figure(theirs, unit)),
        ratio: Some(ratio),
        goal: goal.0,
        reached: Some(goal.1.holds(ratio)),
    }
}

/// A row of a figure that is held against a number.
pub fn absolute(work: &str, unit: &str, ours: &Series, goal: (&'static str, Bound)) -> Row {
    Row {
        work: work.to_owned(),
        ours: figure(ours, unit),
        theirs: String::new(),
        ratio: None,
        goal: goal.0,
        reached: Some(goal.1.holds(ours.median())),
    }
}
