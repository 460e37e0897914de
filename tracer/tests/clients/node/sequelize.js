'use strict';
// Sequelize 6, whose pool is sequelize-pool.

const { Sequelize } = require('sequelize');
const { abandon, failing, giveUpOn, leaveOutside, pace, versions } = require('./loop');

function open(options) {
  const { PGHOST: host, PGPORT: port, PGUSER: username, PGDATABASE: database } = process.env;
  return new Sequelize({
    dialect: 'postgres',
    host,
    port,
    username,
    database,
    logging: false,
    pool: { max: 40, ...options },
  });
}

async function forgottenRelease(db) {
  const connection = await db.connectionManager.getConnection({ type: 'read' });
  await connection.query('select 1');
}

async function earlyReturn(db, id) {
  const transaction = await db.transaction();
  const [rows] = await db.query('select g from generate_series(1, 3) g where g = ?', {
    replacements: [id],
    transaction,
  });
  if (rows.length === 0) {
    return null;
  }
  await transaction.commit();
  return rows[0].g;
}

async function throwBeforeCommit(db, text) {
  const transaction = await db.transaction();
  const [rows] = await db.query('select ?::text as document', {
    replacements: [text],
    transaction,
  });
  const document = JSON.parse(rows[0].document);
  await transaction.commit();
  return document;
}

async function idleInTransaction(db) {
  const transaction = await db.transaction();
  await db.query('select 1', { transaction });
}

async function neverUsed(db) {
  await db.connectionManager.getConnection({ type: 'read' });
}

async function heldWhileOutside(db, answer) {
  const connection = await db.connectionManager.getConnection({ type: 'read' });
  await connection.query('select 1');
  await answer();
  db.connectionManager.releaseConnection(connection);
}

async function transactionWhileOutside(db, answer) {
  await db.transaction(async (transaction) => {
    await db.query('select 1', { transaction });
    await answer();
  });
}

async function returnedInTransaction(db) {
  const connection = await db.connectionManager.getConnection({ type: 'write' });
  await connection.query('begin');
  await connection.query('select 1');
  db.connectionManager.releaseConnection(connection);
}

async function newPoolPerRequest(options) {
  await open(options).query('select 1');
}

async function query(db) {
  await db.query('select 1');
}

async function transaction(db) {
  await db.transaction(async (transaction) => {
    await db.query('select 1', { transaction });
  });
}

module.exports = (options) => {
  const db = open(options);
  return {
    versions: versions('sequelize', 'sequelize-pool', 'pg'),
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
      idle_in_transaction: () => idleInTransaction(db),
      never_used: () => neverUsed(db),
      late: () => giveUpOn((answer) => transactionWhileOutside(db, answer)),
      outside: () => leaveOutside((answer) => heldWhileOutside(db, answer)),
      returned_in_transaction: () => returnedInTransaction(db),
      new_pool: () => newPoolPerRequest(options),
    },
    rounds: { transaction: () => transaction(db) },
    commands: {
      burst: (count) =>
        Promise.all(Array.from({ length: Number(count) }, () => db.query('select pg_sleep(0.1)'))),
      hold_query: (seconds) => abandon(db.query(`select pg_sleep(${Number(seconds)})`)),
    },
  };
};
