'use strict';
// node-postgres: the same work done right. Nothing in this file may ever be reported.

const Cursor = require('pg-cursor');

async function tryFinally(pool) {
  const client = await pool.connect();
  try {
    await client.query('select 1');
  } finally {
    client.release();
  }
}

async function transaction(pool) {
  const client = await pool.connect();
  try {
    await client.query('begin');
    await client.query('select 1');
    await client.query('commit');
  } catch (error) {
    await client.query('rollback');
    throw error;
  } finally {
    client.release();
  }
}

async function poolQuery(pool) {
  await pool.query('select 1');
}

// Held while the server works: active, however long.
async function longQuery(pool, seconds) {
  const client = await pool.connect();
  try {
    await client.query('select pg_sleep($1)', [seconds]);
  } finally {
    client.release();
  }
}

// Held for ever on purpose: notifications come when they come.
async function listen(pool) {
  const client = await pool.connect();
  client.on('notification', () => {});
  await client.query('listen orders');
}

// Held for ever on purpose: the session is the lock.
async function advisoryLock(pool, key) {
  const client = await pool.connect();
  await client.query('select pg_advisory_lock($1)', [key]);
}

// A COPY FROM STDIN that has got one row and waits for more. Speaks to the driver's connection
// itself, as the streaming packages do.
async function copyIn(pool) {
  const client = await pool.connect();
  await client.query('create temporary table copied (n int)');
  await new Promise((resolve, reject) => {
    client.query({
      submit: (connection) => connection.query('copy copied from stdin'),
      handleCopyInResponse: (connection) => {
        connection.sendCopyFromChunk(Buffer.from('1\n'));
        resolve();
      },
      handleError: reject,
      handleCommandComplete: () => {},
      handleReadyForQuery: () => {},
    });
  });
}

// `count` requests at once, then calm.
async function burst(pool, count) {
  await Promise.all(Array.from({ length: count }, () => longQuery(pool, 0.1)));
}

async function cursor(pool) {
  const client = await pool.connect();
  try {
    const cursor = client.query(new Cursor('select generate_series(1, 100)'));
    while ((await cursor.read(10)).length > 0);
    await cursor.close();
  } finally {
    client.release();
  }
}

// Several statements on their way at once.
async function queued(pool) {
  const client = await pool.connect();
  try {
    await Promise.all(Array.from({ length: 10 }, () => client.query('select 1')));
  } finally {
    client.release();
  }
}

// Asks outside before it takes a connection.
async function outsideFirst(pool, answer) {
  await answer();
  await tryFinally(pool);
}

// Holds a connection while somebody outside answers, and gives it back without another word.
async function heldWhileOutside(pool, answer) {
  const client = await pool.connect();
  try {
    await client.query('select 1');
    await answer();
  } finally {
    client.release();
  }
}

async function poolForEach(open) {
  const pool = open();
  await pool.query('select 1');
  await pool.end();
}

// Held for ever, and asked now and then whether it is still there.
async function keepalive(pool, milliseconds) {
  const client = await pool.connect();
  await client.query('select 1');
  setInterval(() => client.query('select 1'), milliseconds);
}

module.exports = {
  tryFinally,
  transaction,
  poolQuery,
  longQuery,
  listen,
  advisoryLock,
  copyIn,
  burst,
  cursor,
  queued,
  outsideFirst,
  heldWhileOutside,
  poolForEach,
  keepalive,
};
