//! A known chain of calls that ends in a stop: main > Shop::handle > load > (take) > hold > kill.
//! Prints the id of the thread it stops in.
use std::hint::black_box;

unsafe extern "C" {
    fn kill(pid: i32, signal: i32) -> i32;
}

struct Shop;

#[inline(never)]
fn hold() {
    println!("{}", std::process::id());
    let pid = std::process::id() as i32;
    black_box(unsafe { kill(pid, 19) }); // line: hold
}

#[inline(always)]
fn take() {
    hold(); // line: take
    black_box(());
}

#[inline(never)]
fn load(id: u32) -> u32 {
    take(); // line: load
    black_box(id) + 1
}

impl Shop {
    #[inline(never)]
    fn handle(&self) -> u32 {
        let got = load(7); // line: handle
        black_box(got) + 1
    }
}

fn main() {
    let shop = black_box(Shop);
    black_box(shop.handle()); // line: main
}
