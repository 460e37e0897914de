'use strict';
// What the orders service answers. One handler forgets its connection on one path; the others do
// the same work right.

// Unknown users are answered before the client is released: each such request takes one
// connection out of the pool for good.
async function getUser(pool, id) {
  const client = await pool.connect();
  const { rows } = await client.query('select id, name from users where id = $1', [id]);
  if (rows.length === 0) {
    return { status: 404, body: 'no such user' };
  }
  client.release();
  return { status: 200, body: rows[0] };
}

async function listOrders(pool, user) {
  const client = await pool.connect();
  try {
    const { rows } = await client.query(
      'select id, total from orders where user_id = $1 order by id desc limit 20',
      [user],
    );
    return { status: 200, body: rows };
  } finally {
    client.release();
  }
}

async function placeOrder(pool, user, total) {
  const client = await pool.connect();
  try {
    await client.query('begin');
    const { rows } = await client.query(
      'insert into orders (user_id, total) values ($1, $2) returning id',
      [user, total],
    );
    await client.query('update users set orders = orders + 1 where id = $1', [user]);
    await client.query('commit');
    return { status: 201, body: rows[0] };
  } catch (error) {
    await client.query('rollback');
    throw error;
  } finally {
    client.release();
  }
}

async function health(pool) {
  await pool.query('select 1');
  return { status: 200, body: 'ok' };
}

module.exports = { getUser, listOrders, placeOrder, health };
