"""Commands about workers, pools and operators."""
