//! The JSON report, as a consumer of it reads it: by the names that its schema promises.
//!
//! May import `serde_json` only. Deliberately not the types that wrote it: a test that reads with
//! the writer's own types cannot see a broken promise.

use serde_json::Value;

/// Verdicts that accuse nobody.
const INFORMATION: [&str; 2] = ["long query", "pool too small"];

/// A parsed report.
#[derive(Debug)]
pub struct Report(pub Value);

/// One finding.
#[derive(Clone, Copy, Debug)]
pub struct Finding<'a>(pub &'a Value);

impl Report {
    pub fn parse(text: &str) -> serde_json::Result<Self> {
        serde_json::from_str(text).map(Self)
    }

    fn list(&self, name: &str) -> &[Value] {
        self.0[name].as_array().unwrap_or_else(|| panic!("no list {name} in {:#}", self.0))
    }

    /// All findings, information too.
    pub fn findings(&self) -> Vec<Finding<'_>> {
        self.list("findings").iter().map(Finding).collect()
    }

    /// All findings but information.
    pub fn accusations(&self) -> Vec<Finding<'_>> {
        let all = self.findings().into_iter();
        all.filter(|finding| !INFORMATION.contains(&finding.verdict())).collect()
    }

    /// What is known of the waits for this pool of a process.
    pub fn waits(&self, pid: u32, pool: &str) -> &Value {
        let pools = self.process(pid)["pools"].as_array().expect("a list of pools");
        let found = pools.iter().find(|row| row["name"] == pool);
        &found.unwrap_or_else(|| panic!("no pool {pool} in {:#}", self.0))["waits"]
    }

    /// The findings with this verdict.
    pub fn with_verdict(&self, verdict: &str) -> Vec<Finding<'_>> {
        let all = self.list("findings").iter().map(Finding);
        all.filter(|finding| finding.verdict() == verdict).collect()
    }

    /// The one accusation. Panics when there is none or another beside it.
    pub fn only_accusation(&self) -> Finding<'_> {
        match self.accusations()[..] {
            [one] => one,
            ref others => panic!("{} accusations in {:#}", others.len(), self.0),
        }
    }

    /// The connections of a process.
    pub fn connections_of(&self, pid: u32) -> Vec<&Value> {
        let all = self.list("connections").iter();
        all.filter(|connection| connection["pid"] == pid).collect()
    }

    pub fn process(&self, pid: u32) -> &Value {
        let mut all = self.list("processes").iter();
        let found = all.find(|process| process["pid"] == pid);
        found.unwrap_or_else(|| panic!("no process {pid} in {:#}", self.0))
    }

    /// How much was lost, of everything that is counted.
    pub fn lost(&self) -> u64 {
        let lost = self.0["capture"]["lost"].as_object();
        let lost = lost.unwrap_or_else(|| panic!("no capture.lost in {:#}", self.0));
        lost.values().map(|count| count.as_u64().expect("a count")).sum()
    }
}

impl<'a> Finding<'a> {
    fn text(self, name: &str) -> &'a str {
        self.0[name].as_str().unwrap_or_else(|| panic!("no {name} in {:#}", self.0))
    }

    pub fn verdict(self) -> &'a str {
        self.text("verdict")
    }

    pub fn certainty(self) -> &'a str {
        self.text("certainty")
    }

    pub fn count(self) -> u64 {
        self.0["count"].as_u64().unwrap_or_else(|| panic!("no count in {:#}", self.0))
    }

    pub fn pid(self) -> u64 {
        self.0["pid"].as_u64().unwrap_or_else(|| panic!("no pid in {:#}", self.0))
    }

    pub fn function(self) -> Option<&'a str> {
        self.0["blame"]["function"].as_str()
    }

    pub fn file(self) -> Option<&'a str> {
        self.0["blame"]["file"].as_str()
    }

    /// What runs, when the line is of what it was made from.
    pub fn generated_file(self) -> Option<&'a str> {
        self.0["blame"]["generated"]["file"].as_str()
    }

    pub fn line(self) -> Option<u64> {
        self.0["blame"]["line"].as_u64()
    }

    /// The innermost frame of the program's own on the stack of an event.
    pub fn innermost(self, event: &str) -> Option<&'a Value> {
        let stacks = self.0["stacks"].as_array()?;
        let stack = stacks.iter().find(|stack| stack["event"] == event)?;
        stack["frames"].as_array()?.iter().find(|frame| frame["kind"] == "app")
    }
}
