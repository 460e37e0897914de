'use strict';
// The same work done right. Nothing in this file may ever be reported.

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

module.exports = {
  tryFinally,
  transaction,
  poolQuery,
  longQuery,
  listen,
  advisoryLock,
  copyIn,
  burst,
};
