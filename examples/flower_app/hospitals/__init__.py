"""A Flower app whose server sees sums only. To make it yours, put your model into task.py."""
