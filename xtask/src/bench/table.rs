//! The table of measurements, and the few numbers it is made of.
//!
//! Pure: may import `std` only.

use std::fmt;

/// What a measurement is held against.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Target {
    AtMost(f64),
    AtLeast(f64),
    /// Told for its own sake.
    None,
}

impl Target {
    fn met(self, value: f64) -> Option<bool> {
        match self {
            Self::AtMost(most) => Some(value <= most),
            Self::AtLeast(least) => Some(value >= least),
            Self::None => None,
        }
    }
}

/// How a value is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    Nanoseconds,
    /// A ratio as a percentage.
    Percent,
    Seconds,
    /// Seconds as milliseconds.
    Milliseconds,
    /// Bytes as MiB.
    Mebibytes,
    Count,
    /// So many times something else.
    Times,
}

impl Unit {
    fn write(self, value: f64) -> String {
        match self {
            Self::Nanoseconds => format!("{value:.0} ns"),
            Self::Percent => format!("{:.1} %", value * 100.0),
            Self::Seconds => format!("{value:.2} s"),
            Self::Milliseconds => format!("{:.1} ms", value * 1_000.0),
            Self::Mebibytes => format!("{:.1} MiB", value / f64::from(1 << 20)),
            Self::Count => format!("{value:.0}"),
            Self::Times => format!("{value:.1} times"),
        }
    }
}

/// The middle of several measurements, and between which two of them that of many more would be, with a
/// certainty of 95 % whatever their distribution is. Of less than six these are the least and the greatest.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Median {
    pub value: f64,
    pub low: f64,
    pub high: f64,
}

impl Median {
    /// `NaN` throughout when there is no measurement.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
        let middle = values.len() / 2;
        let value = if values.len().is_multiple_of(2) && middle > 0 {
            f64::midpoint(at(middle - 1), at(middle))
        } else {
            at(middle)
        };
        // How many of `n` are below the median is binomial, with a standard deviation of half the root.
        let count = values.len() as f64;
        let low = (count / 2.0 - count.sqrt()).max(0.0) as usize;
        Self { value, low: at(low), high: at(values.len().saturating_sub(low + 1)) }
    }
}

impl From<f64> for Median {
    fn from(value: f64) -> Self {
        Self { value, low: value, high: value }
    }
}

/// The measurements in the order in which they were made.
#[derive(Debug, Default)]
pub struct Table {
    rows: Vec<[String; 5]>,
}

impl Table {
    pub fn add(&mut self, measure: &str, value: impl Into<Median>, unit: Unit, target: Target) {
        let Median { value, low, high } = value.into();
        let spread = if low < high {
            format!("{} to {}", unit.write(low), unit.write(high))
        } else {
            String::new()
        };
        let bound = match target {
            Target::AtMost(most) => format!("at most {}", unit.write(most)),
            Target::AtLeast(least) => format!("at least {}", unit.write(least)),
            Target::None => String::new(),
        };
        let met = match target.met(value) {
            Some(true) => "met",
            Some(false) => "MISSED",
            None => "",
        };
        println!("bench: {measure}: {} {met}", unit.write(value));
        self.rows.push([measure.to_owned(), unit.write(value), spread, bound, met.to_owned()]);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = ["measure", "median", "it lies in", "target", ""].map(str::to_owned);
        let rule = ["---"; 5].map(str::to_owned);
        let rows = || [&head, &rule].into_iter().chain(&self.rows);
        let width = |column: usize| rows().map(|row| row[column].chars().count()).max();
        let widths = [0, 1, 2, 3, 4].map(|column| width(column).unwrap_or(0));
        for row in rows() {
            for (cell, width) in row.iter().zip(widths) {
                write!(f, "| {cell:width$} ")?;
            }
            writeln!(f, "|")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_between_the_two_in_it() {
        let odd = Median::of([3.0, 1.0, 9.0]);
        assert_eq!(odd, Median { value: 3.0, low: 1.0, high: 9.0 });
        assert_eq!(Median::of([1.0, 2.0, 4.0, 9.0]).value, 3.0);
        assert!(Median::of([]).value.is_nan());
    }

    #[test]
    fn what_the_median_lies_in_narrows_with_more_measurements() {
        let of = |count: u32| Median::of((1..=count).map(f64::from));
        assert_eq!(of(5), Median { value: 3.0, low: 1.0, high: 5.0 });
        assert_eq!(of(10), Median { value: 5.5, low: 2.0, high: 9.0 });
        assert_eq!(of(100), Median { value: 50.5, low: 41.0, high: 60.0 });
    }

    #[test]
    fn a_target_is_met_at_its_bound_and_missed_beyond() {
        assert_eq!(Target::AtMost(100.0).met(100.0), Some(true));
        assert_eq!(Target::AtMost(100.0).met(100.1), Some(false));
        assert_eq!(Target::AtLeast(0.94).met(0.939), Some(false));
        assert_eq!(Target::None.met(1.0), None);
    }

    #[test]
    fn the_table_is_markdown_with_a_verdict_in_each_row() {
        let mut table = Table::default();
        table.add(
            "pgbench, watched",
            Median::of([0.9, 0.95]),
            Unit::Percent,
            Target::AtLeast(0.94),
        );
        table.add("lost", 0.0, Unit::Count, Target::AtMost(0.0));
        let lines: Vec<String> = table.to_string().lines().map(str::to_owned).collect();
        assert_eq!(lines.len(), 4);
        assert!(lines[2].contains("| 92.5 % |") && lines[2].contains("| MISSED |"), "{}", lines[2]);
        assert!(lines[3].contains("| met "), "{}", lines[3]);
    }
}
