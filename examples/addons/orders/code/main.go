// The code of the orders addon: confirming an order in one transaction, and a first order at the installation.
package main

import "example.com/orders/metacore"

type confirmation struct {
	ID  string `json:"id"`
	Row struct {
		Customer string `json:"customer"`
	} `json:"row"`
}

type sums struct {
	Lines int     `json:"lines"`
	Total float64 `json:"total"`
}

//go:wasmexport confirm
func confirm(at, length uint32) uint64 { return metacore.Handle(at, length, confirmOrder) }

// confirmOrder counts the lines, writes total and state, and tells of it. Row, writes and events are one transaction:
// whatever goes wrong, nothing of it happened.
func confirmOrder(order confirmation) (any, error) {
	found, err := metacore.Query[sums](
		`SELECT count(*)::int AS lines, coalesce(sum(quantity * price), 0)::float8 AS total
		 FROM order_lines WHERE order_id = $1`, metacore.UUID(order.ID))
	if err != nil {
		return nil, err
	}
	lines, total := found[0].Lines, found[0].Total
	if lines == 0 {
		return nil, metacore.Decline("no_lines", "an order of %s without lines cannot be confirmed", order.Row.Customer)
	}
	if _, err = metacore.Exec(
		`UPDATE orders SET status = 'confirmed', total = $2, confirmed_at = now() WHERE id = $1`,
		metacore.UUID(order.ID), total); err != nil {
		return nil, err
	}
	told := map[string]any{"order_id": order.ID, "customer": order.Row.Customer, "total": total}
	if err = metacore.Emit("orders.order.confirmed", told); err != nil {
		return nil, err
	}
	// The manifest asks for orders.* only. In shadow this is recorded and goes through, in enforce it is refused.
	if err = metacore.Emit("billing.invoice.requested", told); err != nil {
		return nil, err
	}
	return map[string]any{"lines": lines, "total": total}, nil
}

type event struct {
	Event   string `json:"event"`
	Version string `json:"version"`
}

//go:wasmexport on_install
func onInstall(at, length uint32) uint64 {
	return metacore.Handle(at, length, func(told event) (any, error) {
		metacore.Log("%s of version %s", told.Event, told.Version)
		order, err := metacore.Create("Order", map[string]any{"customer": "Ada's Tea House"})
		if err != nil {
			return nil, err
		}
		for _, line := range []map[string]any{
			{"order_id": order, "sku": "assam-1kg", "quantity": 3, "price": 18.5},
			{"order_id": order, "sku": "teapot", "quantity": 1, "price": 34},
		} {
			if _, err = metacore.Create("OrderLine", line); err != nil {
				return nil, err
			}
		}
		return map[string]string{"order_id": order}, nil
	})
}

func main() {}
