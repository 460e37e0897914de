//! Stacks of real versions of Java, as `tests/clients/README.md` says how to record them: a client of
//! HikariCP and pgjdbc, interpreted and compiled.

use crate::symbolize::recorded::{is_named, whatever_is_in_memory};

const INTERPRETED_17: &str = include_str!("recorded/17-interpreted.json");
const COMPILED_17: &str = include_str!("recorded/17-compiled.json");
const INTERPRETED_21: &str = include_str!("recorded/21-interpreted.json");
const COMPILED_21: &str = include_str!("recorded/21-compiled.json");

#[test]
fn an_interpreted_stack_is_named() {
    let expected = [
        "(2 native)",
        "sun.nio.ch.FileDispatcherImpl.write0 FileDispatcherImpl.java",
        "sun.nio.ch.SocketDispatcher.write SocketDispatcher.java:62",
        "sun.nio.ch.NioSocketImpl.tryWrite NioSocketImpl.java:403",
        "sun.nio.ch.NioSocketImpl.implWrite NioSocketImpl.java:418",
        "sun.nio.ch.NioSocketImpl.write NioSocketImpl.java:445",
        "sun.nio.ch.NioSocketImpl$2.write NioSocketImpl.java:831",
        "java.net.Socket$SocketOutputStream.write Socket.java:1035",
        "java.io.BufferedOutputStream.flushBuffer BufferedOutputStream.java:81",
        "java.io.BufferedOutputStream.flush BufferedOutputStream.java:142",
        "org.postgresql.core.PGStream.flush PGStream.java:721",
        "org.postgresql.core.v3.QueryExecutorImpl.sendSync QueryExecutorImpl.java:1528",
        "org.postgresql.core.v3.QueryExecutorImpl.execute QueryExecutorImpl.java:354",
        "org.postgresql.jdbc.PgStatement.executeInternal PgStatement.java:496",
        "org.postgresql.jdbc.PgStatement.execute PgStatement.java:413",
        "org.postgresql.jdbc.PgStatement.executeWithFlags PgStatement.java:333",
        "org.postgresql.jdbc.PgStatement.executeCachedSql PgStatement.java:319",
        "org.postgresql.jdbc.PgStatement.executeWithFlags PgStatement.java:295",
        "org.postgresql.jdbc.PgStatement.executeQuery PgStatement.java:244",
        "com.zaxxer.hikari.pool.ProxyStatement.executeQuery ProxyStatement.java:111",
        "com.zaxxer.hikari.pool.HikariProxyStatement.executeQuery HikariProxyStatement.java",
        "shop.LeakyService.fetchInvoice LeakyService.java:22",
        "Frames.use Frames.java:48",
        "Frames.carryOut Frames.java:112",
        "Frames.main Frames.java:148",
        "(7 native)",
    ];
    is_named(INTERPRETED_17, &expected);
}

#[test]
fn an_interpreted_stack_of_another_version_is_named() {
    let expected = [
        "(2 native)",
        "sun.nio.ch.SocketDispatcher.write0",
        "sun.nio.ch.SocketDispatcher.write",
        "sun.nio.ch.NioSocketImpl.tryWrite",
        "sun.nio.ch.NioSocketImpl.implWrite",
        "sun.nio.ch.NioSocketImpl.write",
        "sun.nio.ch.NioSocketImpl$2.write",
        "java.net.Socket$SocketOutputStream.write",
        "java.io.BufferedOutputStream.flushBuffer",
        "java.io.BufferedOutputStream.implFlush",
        "java.io.BufferedOutputStream.flush",
        "org.postgresql.core.PGStream.flush PGStream.java:721",
        "org.postgresql.core.v3.QueryExecutorImpl.sendSync QueryExecutorImpl.java:1528",
        "org.postgresql.core.v3.QueryExecutorImpl.execute QueryExecutorImpl.java:354",
        "org.postgresql.jdbc.PgStatement.executeInternal PgStatement.java:496",
        "org.postgresql.jdbc.PgStatement.execute PgStatement.java:413",
        "org.postgresql.jdbc.PgStatement.executeWithFlags PgStatement.java:333",
        "org.postgresql.jdbc.PgStatement.executeCachedSql PgStatement.java:319",
        "org.postgresql.jdbc.PgStatement.executeWithFlags PgStatement.java:295",
        "org.postgresql.jdbc.PgStatement.executeQuery PgStatement.java:244",
        "com.zaxxer.hikari.pool.ProxyStatement.executeQuery ProxyStatement.java:111",
        "com.zaxxer.hikari.pool.HikariProxyStatement.executeQuery HikariProxyStatement.java",
        "shop.LeakyService.fetchInvoice LeakyService.java:22",
        "Frames.use Frames.java:48",
        "Frames.carryOut Frames.java:112",
        "Frames.main Frames.java:148",
        "(7 native)",
    ];
    is_named(INTERPRETED_21, &expected);
}

#[test]
fn a_compiled_stack_is_named_with_what_was_inlined() {
    let expected = [
        "(2 native)",
        "sun.nio.ch.FileDispatcherImpl.write0 FileDispatcherImpl.java",
        "sun.nio.ch.SocketDispatcher.write SocketDispatcher.java:62 inlined",
        "sun.nio.ch.NioSocketImpl.tryWrite NioSocketImpl.java:403",
        "sun.nio.ch.NioSocketImpl.implWrite NioSocketImpl.java:418",
        "sun.nio.ch.NioSocketImpl.write NioSocketImpl.java:445",
        "sun.nio.ch.NioSocketImpl$2.write NioSocketImpl.java:831",
        "java.net.Socket$SocketOutputStream.write Socket.java:1035",
        "java.io.BufferedOutputStream.flushBuffer BufferedOutputStream.java:81 inlined",
        "java.io.BufferedOutputStream.flush BufferedOutputStream.java:142",
        "org.postgresql.core.PGStream.flush PGStream.java:721 inlined",
        "org.postgresql.core.v3.QueryExecutorImpl.sendSync QueryExecutorImpl.java:1528",
        "org.postgresql.core.v3.QueryExecutorImpl.execute QueryExecutorImpl.java:354",
        "org.postgresql.jdbc.PgStatement.executeInternal PgStatement.java:496",
        "org.postgresql.jdbc.PgStatement.execute PgStatement.java:413",
        "org.postgresql.jdbc.PgStatement.executeWithFlags PgStatement.java:333",
        "org.postgresql.jdbc.PgStatement.executeCachedSql PgStatement.java:319",
        "org.postgresql.jdbc.PgStatement.executeWithFlags PgStatement.java:295 inlined",
        "org.postgresql.jdbc.PgStatement.executeQuery PgStatement.java:244",
        "com.zaxxer.hikari.pool.ProxyStatement.executeQuery ProxyStatement.java:111 inlined",
        "com.zaxxer.hikari.pool.HikariProxyStatement.executeQuery HikariProxyStatement.java",
        "shop.LeakyService.send LeakyService.java:34 inlined",
        "shop.LeakyService.handle LeakyService.java:44 inlined",
        "Frames.use Frames.java:51",
        "Frames.carryOut Frames.java:126",
        "Frames.main Frames.java:148",
        "(7 native)",
    ];
    is_named(COMPILED_17, &expected);
}

#[test]
fn a_compiled_stack_of_another_version_is_named_with_what_was_inlined() {
    let expected = [
        "(2 native)",
        "sun.nio.ch.SocketDispatcher.write0",
        "sun.nio.ch.SocketDispatcher.write inlined",
        "sun.nio.ch.NioSocketImpl.tryWrite",
        "sun.nio.ch.NioSocketImpl.implWrite",
        "sun.nio.ch.NioSocketImpl.write",
        "sun.nio.ch.NioSocketImpl$2.write",
        "java.net.Socket$SocketOutputStream.write",
        "java.io.BufferedOutputStream.flushBuffer inlined",
        "java.io.BufferedOutputStream.implFlush inlined",
        "java.io.BufferedOutputStream.flush",
        "org.postgresql.core.PGStream.flush PGStream.java:721 inlined",
        "org.postgresql.core.v3.QueryExecutorImpl.sendSync QueryExecutorImpl.java:1528",
        "org.postgresql.core.v3.QueryExecutorImpl.execute QueryExecutorImpl.java:354",
        "org.postgresql.jdbc.PgStatement.executeInternal PgStatement.java:496",
        "org.postgresql.jdbc.PgStatement.execute PgStatement.java:413",
        "org.postgresql.jdbc.PgStatement.executeWithFlags PgStatement.java:333",
        "org.postgresql.jdbc.PgStatement.executeCachedSql PgStatement.java:319",
        "org.postgresql.jdbc.PgStatement.executeWithFlags PgStatement.java:295 inlined",
        "org.postgresql.jdbc.PgStatement.executeQuery PgStatement.java:244",
        "com.zaxxer.hikari.pool.ProxyStatement.executeQuery ProxyStatement.java:111 inlined",
        "com.zaxxer.hikari.pool.HikariProxyStatement.executeQuery HikariProxyStatement.java",
        "shop.LeakyService.send LeakyService.java:34 inlined",
        "shop.LeakyService.handle LeakyService.java:44 inlined",
        "Frames.use Frames.java:51",
        "Frames.carryOut Frames.java:126",
        "Frames.main Frames.java:148",
        "(7 native)",
    ];
    is_named(COMPILED_21, &expected);
}

#[test]
fn hostile_memory_of_an_interpreted_stack_is_read_with_bounds() {
    whatever_is_in_memory(INTERPRETED_17);
}

#[test]
fn hostile_memory_of_an_interpreted_stack_of_another_version_is_read_with_bounds() {
    whatever_is_in_memory(INTERPRETED_21);
}

#[test]
fn hostile_memory_of_a_compiled_stack_is_read_with_bounds() {
    whatever_is_in_memory(COMPILED_17);
}

#[test]
fn hostile_memory_of_a_compiled_stack_of_another_version_is_read_with_bounds() {
    whatever_is_in_memory(COMPILED_21);
}
