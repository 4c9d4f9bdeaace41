"""Train the post's network for one epoch on the digits that ship, and save it as model.keras."""

from tercet.data import load_digits
from tercet.frontend.digits import train_digits

digits = load_digits()
model = train_digits(digits.x_train, digits.y_train)
model.save("model.keras")
print("saved model.keras")
