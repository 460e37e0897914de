'use strict';
// Knex, whose pool is tarn: it closes what sits idle down to two connections.

const Knex = require('knex');
const { abandon, failing, giveUpOn, leaveOutside, pace, versions } = require('./loop');

const open = (options) => Knex({ client: 'pg', connection: {}, pool: { max: 40, ...options } });

// A statement on one connection: for what an application must not share with others.
async function forgottenRelease(db) {
  const connection = await db.client.acquireConnection();
  await db.raw('select 1').connection(connection);
}

async function earlyReturn(db, id) {
  const connection = await db.client.acquireConnection();
  const { rows } = await db
    .raw('select g from generate_series(1, 3) g where g = ?', [id])
    .connection(connection);
  if (rows.length === 0) {
    return null;
  }
  await db.client.releaseConnection(connection);
  return rows[0].g;
}

async function throwBeforeCommit(db, text) {
  const transaction = await db.transaction();
  const { rows } = await transaction.raw('select ?::text as document', [text]);
  const document = JSON.parse(rows[0].document);
  await transaction.commit();
  return document;
}

async function neverUsed(db) {
  await db.client.acquireConnection();
}

async function idleInTransaction(db) {
  const transaction = await db.transaction();
  await transaction.raw('select 1');
}

async function heldWhileOutside(db, answer) {
  const connection = await db.client.acquireConnection();
  await db.raw('select 1').connection(connection);
  await answer();
  await db.client.releaseConnection(connection);
}

async function transactionWhileOutside(db, answer) {
  await db.transaction(async (transaction) => {
    await transaction.raw('select 1');
    await answer();
  });
}

// Looks at the first row of a stream and forgets the rest, which nobody destroys.
async function streamLeftOpen(db) {
  const stream = db.select(db.raw('generate_series(1, 1000)')).stream({ highWaterMark: 10 });
  await new Promise((resolve, reject) => {
    stream.once('error', reject);
    stream.once('readable', () => resolve(stream.read()));
  });
}

async function returnedInTransaction(db) {
  const connection = await db.client.acquireConnection();
  await db.raw('begin').connection(connection);
  await db.raw('select 1').connection(connection);
  await db.client.releaseConnection(connection);
}

async function newPoolPerRequest(options) {
  await open(options).raw('select 1');
}

async function query(db) {
  await db.select(db.raw('1'));
}

async function transaction(db) {
  await db.transaction(async (transaction) => {
    await transaction.raw('select 1');
  });
}

async function stream(db) {
  const rows = db.select(db.raw('generate_series(1, 1000)')).stream();
  // Leaving the loop destroys the stream.
  for await (const _ of rows) break;
}

async function released(db) {
  const connection = await db.client.acquireConnection();
  try {
    await db.raw('select 1').connection(connection);
  } finally {
    await db.client.releaseConnection(connection);
  }
}

module.exports = (options) => {
  const db = open(options);
  return {
    versions: versions('knex', 'tarn', 'pg'),
    healthy: () => query(db),
    leaks: {
      forgotten: () => forgottenRelease(db),
      early_return: async () => {
        await earlyReturn(db, 1);
        await pace();
        await earlyReturn(db, 1000);
      },
      throw: async () => {
        await throwBeforeCommit(db, '{"fine": true}');
        await pace();
        await failing(throwBeforeCommit(db, '{"broken": '), SyntaxError);
      },
      never_used: () => neverUsed(db),
      idle_in_transaction: () => idleInTransaction(db),
      late: () => giveUpOn((answer) => transactionWhileOutside(db, answer)),
      outside: () => leaveOutside((answer) => heldWhileOutside(db, answer)),
      stream: () => streamLeftOpen(db),
      returned_in_transaction: () => returnedInTransaction(db),
      new_pool: () => newPoolPerRequest(options),
    },
    rounds: {
      transaction: () => transaction(db),
      stream: () => stream(db),
      released: () => released(db),
    },
    commands: {
      burst: (count) =>
        Promise.all(Array.from({ length: Number(count) }, () => db.raw('select pg_sleep(0.1)'))),
      hold_query: (seconds) => abandon(db.raw('select pg_sleep(?)', [Number(seconds)]).then()),
      advisory_lock: async (key) => {
        const connection = await db.client.acquireConnection();
        await db.raw('select pg_advisory_lock(?)', [Number(key)]).connection(connection);
      },
    },
  };
};
