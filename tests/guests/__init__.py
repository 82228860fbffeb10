"""Guests in WebAssembly text: well-behaved ones, hostile ones, and what turns them into modules."""
