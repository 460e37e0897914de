'use strict';
// Drizzle on node-postgres.

const { Pool } = require('pg');
const { drizzle } = require('drizzle-orm/node-postgres');
const { sql } = require('drizzle-orm');
const { failing, giveUpOn, pace, versions } = require('./loop');

const open = (options) => new Pool({ max: 40, ...options });

// A client of its own for some statements, which nobody gives back.
async function forgottenRelease(pool) {
  const db = drizzle(await pool.connect());
  await db.execute(sql`select 1`);
}

async function earlyReturn(pool, id) {
  const client = await pool.connect();
  const db = drizzle(client);
  const { rows } = await db.execute(sql`select g from generate_series(1, 3) g where g = ${id}`);
  if (rows.length === 0) {
    return null;
  }
  client.release();
  return rows[0].g;
}

async function throwBeforeRelease(pool, text) {
  const client = await pool.connect();
  const db = drizzle(client);
  const { rows } = await db.execute(sql`select ${text}::text as document`);
  const document = JSON.parse(rows[0].document);
  client.release();
  return document;
}

async function transactionWhileOutside(db, answer) {
  await db.transaction(async (transaction) => {
    await transaction.execute(sql`select 1`);
    await answer();
  });
}

async function query(db) {
  await db.execute(sql`select 1`);
}

async function transaction(db) {
  await db.transaction(async (transaction) => {
    await transaction.execute(sql`select 1`);
  });
}

module.exports = (options) => {
  const pool = open(options);
  const db = drizzle(pool);
  return {
    versions: versions('drizzle-orm', 'pg'),
    healthy: () => query(db),
    leaks: {
      forgotten: () => forgottenRelease(pool),
      early_return: async () => {
        await earlyReturn(pool, 1);
        await pace();
        await earlyReturn(pool, 1000);
      },
      throw: async () => {
        await throwBeforeRelease(pool, '{"fine": true}');
        await pace();
        await failing(throwBeforeRelease(pool, '{"broken": '), SyntaxError);
      },
      late: () => giveUpOn((answer) => transactionWhileOutside(db, answer)),
    },
    rounds: { transaction: () => transaction(db) },
    commands: {
      burst: (count) =>
        Promise.all(
          Array.from({ length: Number(count) }, () => db.execute(sql`select pg_sleep(0.1)`)),
        ),
    },
  };
};
