"""`python -m subsense`, and with several processes `accelerate launch -m subsense train RECIPE`."""

from subsense.cli import main

if __name__ == "__main__":
    main()
