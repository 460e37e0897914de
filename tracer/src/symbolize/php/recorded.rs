//! Stacks of a real PHP, as `tests/clients/README.md` says how to record them.

use crate::symbolize::recorded::{is_named, whatever_is_in_memory};

const METHOD: &str = include_str!("recorded/8.2-method.json");
const CLOSURE: &str = include_str!("recorded/8.2-closure.json");

#[test]
fn a_method_is_named_with_its_callers() {
    let expected = [
        "(7 native)",
        "PDO::query",
        "Shop\\Größe\\Model::läs /srv/größe/frames.php:32",
        "Shop\\Größe\\Model::load /srv/größe/frames.php:27",
        "Shop\\Größe\\frames /srv/größe/frames.php:85",
        "{closure} /srv/größe/main.php:72",
        "repeat /srv/größe/main.php:29",
        "{closure} /srv/größe/main.php:70",
        "{main} /srv/größe/main.php:121",
    ];
    is_named(METHOD, &expected);
}

#[test]
fn a_closure_is_named_with_what_calls_it() {
    let expected = [
        "(7 native)",
        "PDO::query",
        "Shop\\Größe\\{closure} /srv/größe/frames.php:57",
        "array_map",
        "Shop\\Größe\\frames /srv/größe/frames.php:87",
        "{closure} /srv/größe/main.php:72",
        "repeat /srv/größe/main.php:29",
        "{closure} /srv/größe/main.php:70",
        "{main} /srv/größe/main.php:121",
    ];
    is_named(CLOSURE, &expected);
}

#[test]
fn hostile_memory_is_read_with_bounds() {
    whatever_is_in_memory(METHOD);
    whatever_is_in_memory(CLOSURE);
}
