'use strict';
// node-postgres: the ways a connection does not come back. Each function is one shape of the bug, and the name
// that a report must give.

const Cursor = require('pg-cursor');

// The plain one: nobody wrote the release.
async function forgottenRelease(pool) {
  const client = await pool.connect();
  const { rows } = await client.query('select 41 + $1::int as answer', [1]); // LEAK-LINE forgotten
  return rows[0].answer;
}

// Comes back for the ids that exist; the early return skips the release.
async function earlyReturn(pool, id) {
  const client = await pool.connect();
  const text = 'select g from generate_series(1, 3) g where g = $1';
  const { rows } = await client.query(text, [id]); // LEAK-LINE early_return
  if (rows.length === 0) {
    return null;
  }
  client.release();
  return rows[0].g;
}

// Comes back unless the stored text is not JSON.
async function throwBeforeRelease(pool, text) {
  const client = await pool.connect();
  const { rows } = await client.query('select $1::text as document', [text]); // LEAK-LINE throw
  const document = JSON.parse(rows[0].document);
  client.release();
  return document;
}

// Taken out of the pool and not even used.
async function neverUsed(pool) {
  await pool.connect(); // LEAK-LINE never_used
}

// A transaction that is neither committed nor rolled back.
async function idleInTransaction(pool) {
  const client = await pool.connect();
  await client.query('begin'); // LEAK-LINE idle_in_transaction
  await client.query('select 1');
}

// A statement of a transaction fails, and nobody rolls back.
async function failedTransaction(pool) {
  const client = await pool.connect();
  await client.query('begin');
  await client.query('select 1 / 0');
}

// Comes back when somebody outside has answered. Whoever waits for this task and gives up takes
// nothing from it: it goes on holding.
async function heldWhileOutside(pool, answer) {
  const client = await pool.connect();
  await client.query('select 1');
  await answer();
  client.release();
}

// Looks at its signal where nothing gives the connection back.
async function abortedTask(pool, signal) {
  const client = await pool.connect();
  await client.query('select 1');
  signal.throwIfAborted();
  client.release();
}

// Reads the first rows of a cursor and forgets the rest.
async function cursorLeftOpen(pool) {
  const client = await pool.connect();
  const cursor = client.query(new Cursor('select generate_series(1, 1000)'));
  return cursor.read(10);
}

// The next one who takes this connection is in a transaction that he did not begin.
async function returnedInTransaction(pool) {
  const client = await pool.connect();
  await client.query('begin'); // LEAK-LINE returned_in_transaction
  await client.query('select 1');
  client.release();
}

// A pool of its own for each call: its connection comes back, to a pool that nobody uses again.
async function newPool(open) {
  const pool = open();
  const { rows } = await pool.query('select 41 + $1::int as answer', [1]);
  return rows[0].answer;
}

// The same with a client that is taken and given back.
async function newPoolClient(open) {
  const pool = open();
  const client = await pool.connect();
  try {
    const { rows } = await client.query('select 41 + $1::int as answer', [1]);
    return rows[0].answer;
  } finally {
    client.release();
  }
}

module.exports = {
  forgottenRelease,
  earlyReturn,
  throwBeforeRelease,
  neverUsed,
  idleInTransaction,
  failedTransaction,
  heldWhileOutside,
  abortedTask,
  cursorLeftOpen,
  returnedInTransaction,
  newPool,
  newPoolClient,
};
