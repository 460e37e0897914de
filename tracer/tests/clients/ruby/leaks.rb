# frozen_string_literal: true

# The ways a connection does not come back. Each method is one shape of the bug.
module Leaks
  module_function

  # The plain one: nobody wrote the checkin.
  def forgotten_checkin(pool)
    pool.checkout.exec('select 41 + 1').getvalue(0, 0)
  end

  # Comes back for the ids that exist; the early return skips the checkin.
  def early_return(pool, id)
    connection = pool.checkout
    rows = connection.exec_params('select g from generate_series(1, 3) g where g = $1', [id])
    return if rows.ntuples.zero?

    pool.checkin
    rows.getvalue(0, 0)
  end

  # Comes back unless the stored text is no number.
  def raised_before_checkin(pool, text)
    connection = pool.checkout
    number = Integer(connection.exec_params('select $1::text', [text]).getvalue(0, 0))
    pool.checkin
    number
  end

  # Comes back unless the time is up while something else is waited for.
  def timed_out(pool, seconds, call)
    Timeout.timeout(seconds) do
      pool.checkout.exec('select 1')
      call.pop
      pool.checkin
    end
  end

  # A transaction that is neither committed nor rolled back.
  def transaction_not_ended(pool)
    connection = pool.checkout
    connection.exec('begin')
    connection.exec('select 1')
  end

  # Taken out of the pool and not even used.
  def never_used(pool)
    pool.checkout
  end

  # Rows one by one, of which only the first is asked for.
  def rows_not_read(pool)
    connection = pool.checkout
    connection.send_query('select g from generate_series(1, 100000) g')
    connection.set_single_row_mode
    connection.get_result.getvalue(0, 0)
  end
end
