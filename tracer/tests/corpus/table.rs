//! The table of the corpus, and what it comes to: recall and false alarms.
//!
//! May import `std` only.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// What came of one scenario.
#[derive(Debug)]
pub struct Row {
    /// What the client says it is.
    pub client: String,
    pub scenario: &'static str,
    pub leaky: bool,
    /// There is a bug that nobody can tell from outside.
    pub untold: bool,
    /// Of each finding: verdict, count, certainty, who is blamed.
    pub said: Vec<[String; 4]>,
    /// Why this is not what must be said.
    pub wrong: Option<String>,
}

impl Row {
    /// In one line, as it comes in.
    pub fn line(&self) -> String {
        let said = match self.said[..] {
            [] => "nothing".to_owned(),
            ref all => {
                let all = all.iter().map(|finding| finding.join(", "));
                all.collect::<Vec<_>>().join("; ")
            }
        };
        let wrong = self.wrong.as_ref().map(|why| format!(" WRONG: {why}")).unwrap_or_default();
        format!("{}: {}: {said}{wrong}", self.client, self.scenario)
    }
}

/// All rows, in the order of the scenarios.
#[derive(Debug, Default)]
pub struct Table {
    rows: BTreeMap<usize, Row>,
}

impl Table {
    pub fn add(&mut self, index: usize, row: Row) {
        self.rows.insert(index, row);
    }

    pub fn is_as_expected(&self) -> bool {
        self.rows.values().all(|row| row.wrong.is_none())
    }

    /// Of the leaky or of the healthy ones: how many are right, and how many there are.
    fn right(&self, leaky: bool, client: Option<&str>) -> (usize, usize) {
        let rows = || {
            self.rows.values().filter(|row| {
                row.leaky == leaky
                    && !row.untold
                    && client.is_none_or(|client| client == row.client)
            })
        };
        (rows().filter(|row| row.wrong.is_none()).count(), rows().count())
    }

    fn untold(&self, client: Option<&str>) -> usize {
        let of = |row: &&Row| row.untold && client.is_none_or(|client| client == row.client);
        self.rows.values().filter(of).count()
    }

    /// A line for each client, in the order of the scenarios.
    fn by_client(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n| client | bugs told | healthy and silent | bugs that cannot be told |")?;
        writeln!(f, "| --- | --- | --- | --- |")?;
        let mut seen = BTreeSet::new();
        for client in self.rows.values().map(|row| row.client.as_str()) {
            if seen.insert(client) {
                let (found, leaky) = self.right(true, Some(client));
                let (silent, healthy) = self.right(false, Some(client));
                let untold = self.untold(Some(client));
                let told = format!("{found} of {leaky} | {silent} of {healthy}");
                writeln!(f, "| {client} | {told} | {untold} |")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| client | scenario | verdict | count | certainty | blamed |")?;
        writeln!(f, "| --- | --- | --- | --- | --- | --- |")?;
        for row in self.rows.values() {
            let nothing = ["none", "", "", ""].map(str::to_owned);
            let said = if row.said.is_empty() { std::slice::from_ref(&nothing) } else { &row.said };
            for [verdict, count, certainty, blamed] in said {
                let (client, scenario) = (&row.client, row.scenario);
                let cells =
                    format!("{client} | {scenario} | {verdict} | {count} | {certainty} | {blamed}");
                writeln!(f, "| {cells} |")?;
            }
        }
        self.by_client(f)?;
        let ((found, leaky), (silent, healthy)) = (self.right(true, None), self.right(false, None));
        writeln!(
            f,
            "\n{found} of {leaky} bugs found as they must be, {} false alarms in {healthy} healthy programs",
            healthy - silent
        )?;
        let untold = self.untold(None);
        if untold > 0 {
            writeln!(
                f,
                "{untold} more that cannot be told from outside, where nothing must be said"
            )?;
        }
        for row in self.rows.values().filter(|row| row.wrong.is_some()) {
            writeln!(f, "WRONG: {}", row.line())?;
        }
        Ok(())
    }
}
