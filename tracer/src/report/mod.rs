//! The report: what a person, a script or a CI job reads. Built from the model, written as text or JSON.
