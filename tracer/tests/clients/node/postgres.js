'use strict';
// Postgres.js: its own protocol code and its own pool. It writes from the event loop, after the
// code that asked has returned.

const postgres = require('postgres');
const {
  abandon,
  abort,
  failing,
  giveUpOn,
  leaveOutside,
  outside,
  pace,
  sleep,
  versions,
} = require('./loop');

const open = (options) => postgres({ max: 40, onnotice: () => {}, ...options });

async function forgottenRelease(sql) {
  const reserved = await sql.reserve();
  await reserved`select 1`;
}

async function earlyReturn(sql, id) {
  const reserved = await sql.reserve();
  const rows = await reserved`select g from generate_series(1, 3) g where g = ${id}`;
  if (rows.length === 0) {
    return null;
  }
  reserved.release();
  return rows[0].g;
}

async function throwBeforeRelease(sql, text) {
  const reserved = await sql.reserve();
  const rows = await reserved`select ${text}::text as document`;
  const document = JSON.parse(rows[0].document);
  reserved.release();
  return document;
}

async function neverUsed(sql) {
  await sql.reserve();
}

async function idleInTransaction(sql) {
  const reserved = await sql.reserve();
  await reserved`begin`;
  await reserved`select 1`;
}

async function heldWhileOutside(sql, answer) {
  const reserved = await sql.reserve();
  try {
    await reserved`select 1`;
    await answer();
  } finally {
    reserved.release();
  }
}

async function transactionWhileOutside(sql, answer) {
  await sql.begin(async (transaction) => {
    await transaction`select 1`;
    await answer();
  });
}

async function abortedTask(sql, signal) {
  const reserved = await sql.reserve();
  await reserved`select 1`;
  signal.throwIfAborted();
  reserved.release();
}

// Waits for somebody outside between two parts of a result.
async function cursorWhileOutside(sql, answer) {
  await sql`select generate_series(1, 1000)`.cursor(10, answer);
}

async function returnedInTransaction(sql) {
  const reserved = await sql.reserve();
  await reserved`begin`;
  await reserved`select 1`;
  reserved.release();
}

async function newPoolPerRequest(options) {
  await open(options)`select 1`;
}

async function query(sql) {
  await sql`select 1`;
}

async function transaction(sql) {
  await sql.begin((transaction) => transaction`select 1`);
}

async function cursor(sql) {
  for await (const _ of sql`select generate_series(1, 100)`.cursor(10));
}

async function released(sql) {
  const reserved = await sql.reserve();
  try {
    await reserved`select 1`;
  } finally {
    reserved.release();
  }
}

module.exports = (options) => {
  const sql = open(options);
  return {
    versions: versions('postgres'),
    healthy: () => query(sql),
    leaks: {
      forgotten: () => forgottenRelease(sql),
      early_return: async () => {
        await earlyReturn(sql, 1);
        await pace();
        await earlyReturn(sql, 1000);
      },
      throw: async () => {
        await throwBeforeRelease(sql, '{"fine": true}');
        await pace();
        await failing(throwBeforeRelease(sql, '{"broken": '), SyntaxError);
      },
      never_used: () => neverUsed(sql),
      idle_in_transaction: () => idleInTransaction(sql),
      late: () => giveUpOn((answer) => transactionWhileOutside(sql, answer)),
      aborted: () => abort((signal) => abortedTask(sql, signal)),
      outside: () => leaveOutside((answer) => heldWhileOutside(sql, answer)),
      cursor: () => leaveOutside((answer) => cursorWhileOutside(sql, answer)),
      returned_in_transaction: () => returnedInTransaction(sql),
      new_pool: () => newPoolPerRequest(options),
    },
    rounds: {
      transaction: () => transaction(sql),
      cursor: () => cursor(sql),
      released: () => released(sql),
      pipeline: () => Promise.all(Array.from({ length: 100 }, (_, index) => sql`select ${index}::int`)),
    },
    commands: {
      burst: (count) =>
        Promise.all(Array.from({ length: Number(count) }, () => sql`select pg_sleep(0.1)`)),
      // So many requests one after the other, each holding a connection while somebody outside
      // answers: all of them are out when the first comes back.
      outside_burst: (count, milliseconds) =>
        Promise.all(
          Array.from({ length: Number(count) }, async (_, index) => {
            await sleep((index * milliseconds) / count);
            await heldWhileOutside(sql, () => outside.call(milliseconds));
          }),
        ),
      hold_query: (seconds) => abandon(sql`select pg_sleep(${Number(seconds)})`.then()),
      listen: () => sql.listen('orders', () => {}),
      advisory_lock: async (key) => {
        const reserved = await sql.reserve();
        await reserved`select pg_advisory_lock(${Number(key)})`;
      },
      // A COPY FROM STDIN that has got one row and waits for more.
      copy: async () => {
        const reserved = await sql.reserve();
        await reserved`create temporary table copied (n int)`;
        const rows = await reserved`copy copied from stdin`.writable();
        await new Promise((resolve) => rows.write('1\n', resolve));
      },
    },
  };
};
